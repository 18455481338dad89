// The worker under test, written with @livekit/agents: NODE_MODULES_PARENT=DIRECTORY node node.mjs
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";

const require = createRequire(`${process.env.NODE_MODULES_PARENT ?? process.cwd()}/`);
const { AgentServer, ServerOptions, defineAgent, initializeLogger } = await import(
  pathToFileURL(require.resolve("@livekit/agents")).href
);
const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

const obey = async (ask) => {
  if (ask.do === "raise") throw new Error("asked to raise");
  if (ask.do === "exit") process.exit(3);
  if (ask.do === "hang" || ask.do === "ignore-cancel") await sleep(3600);
  if (ask.do === "sleep") await sleep(ask.seconds);
};

export default defineAgent({
  entry: async (ctx) => {
    // No ctx.connect(): there is no room.
    await obey(JSON.parse(ctx.job.metadata || "{}"));
    ctx.shutdown("done");
  },
});

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  initializeLogger({ pretty: false, level: "info" });
  const server = new AgentServer(
    new ServerOptions({
      agent: fileURLToPath(import.meta.url),
      wsURL: process.env.LIVEKIT_URL,
      apiKey: process.env.LIVEKIT_API_KEY,
      apiSecret: process.env.LIVEKIT_API_SECRET,
      numIdleProcesses: 1,
      loadFunc: async () => 0.1,
      host: "127.0.0.1",
      port: 20_000 + (process.pid % 20_000), // its health check; 0 would mean 8081 for all
      production: true,
      requestFunc: async (request) => {
        const ask = JSON.parse(request.job.metadata || "{}");
        if (ask.at === "offer") await obey(ask);
        if (String(ask.do).startsWith("reject")) await request.reject();
        else await request.accept("", `agent-${request.id}`);
      },
    }),
  );
  process.once("SIGTERM", async () => {
    await server.drain(6000);
    await server.close();
    process.exit(0);
  });
  await server.run();
}
