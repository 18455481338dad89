// A worker of @livekit/agents, the JavaScript framework.  Argument: agent name.  One JSON object per line on stdout.
// The file is also the agent that its child process imports, hence the default export.
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";

const require = createRequire(process.env.NODE_MODULES_PARENT + "/");
const { AgentServer, ServerOptions, defineAgent, initializeLogger } = await import(
  pathToFileURL(require.resolve("@livekit/agents")).href
);
const say = (event, fields = {}) => process.stderr.write(`@@${JSON.stringify({ event, ...fields })}\n`);

export default defineAgent({
  entry: async (ctx) => {
    say("job", { id: ctx.job.id, room: ctx.job.room?.name, metadata: ctx.job.metadata });
    ctx.shutdown("done");
  },
});

if (process.argv[1] === fileURLToPath(import.meta.url) && process.argv[2]) {
  initializeLogger({ pretty: false, level: "warn" });
  const server = new AgentServer(
    new ServerOptions({
      agent: fileURLToPath(import.meta.url),
      agentName: process.argv[2],
      wsURL: process.env.LIVEKIT_URL,
      apiKey: process.env.LIVEKIT_API_KEY,
      apiSecret: process.env.LIVEKIT_API_SECRET,
      numIdleProcesses: 1,
      loadFunc: async () => 0,
      host: "127.0.0.1",
      port: 10_000 + (process.pid % 20_000), // its health check; 0 would mean 8081 for all
      production: true,
      requestFunc: async (request) => {
        say("offer", { id: request.id });
        await request.accept("node agent", `agent-${request.id}`);
      },
    }),
  );
  server.event.on("worker_registered", (id) => say("registered", { id }));
  await server.run();
}
