// A real browser in a room: Chromium, driven by playwright-core, with livekit-client in a page served on loopback.
// Arguments: url, token, file for a screenshot.  One JSON object per line; a line on stdin ("leave") makes it leave.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const require = createRequire(process.env.NODE_MODULES_PARENT + "/");
const { chromium } = require("playwright-core");
const [url, token, screenshot] = process.argv.slice(2);
const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");

const files = {
  "/": [readFileSync(new URL("browser.html", import.meta.url)), "text/html"],
  "/livekit-client.js": [
    readFileSync(`${process.env.NODE_MODULES_PARENT}/node_modules/livekit-client/dist/livekit-client.umd.js`),
    "text/javascript",
  ],
};
const server = createServer((request, response) => {
  const [body, type] = files[request.url] ?? ["", "text/plain"];
  response.writeHead(body ? 200 : 404, { "Content-Type": type }).end(body);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

const browser = await chromium.launch({
  executablePath: process.env.LIVEKIT_CHROMIUM,
  args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
});
const page = await browser.newPage({ viewport: { width: 948, height: 900 } });
page.on("pageerror", (error) => say({ event: "page error", text: String(error) }));
page.on("console", (message) => message.type() === "error" && say({ event: "console", text: message.text() }));
await page.exposeFunction("report", say);
await page.goto(`http://127.0.0.1:${server.address().port}/`);
say({ event: "browser", version: browser.version() });
await page.evaluate(([u, t]) => main(u, t), [url, token]);
say({ event: "ready" });

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "screenshot") {
    await page.screenshot({ path: screenshot });
    say({ event: "screenshot" });
  }
  if (line === "leave") break;
}
await page.evaluate(() => window.room.disconnect());
await browser.close();
server.close();
say({ event: "left" });
process.exit(0);
