// Uses the official JavaScript SDK against a sidecar and prints `ok <step>` for every step that held.
// Client and server speak HTTP; the state steps are repeated over gRPC, the SDK's other protocol.
"use strict";

const assert = require("node:assert/strict");
const { once, EventEmitter } = require("node:events");
const {
  AbstractActor,
  ActorId,
  ActorProxyBuilder,
  CommunicationProtocolEnum,
  DaprClient,
  DaprServer,
  HttpMethod,
  LogLevel,
  StateConcurrencyEnum,
  StateConsistencyEnum,
  Temporal,
} = require("@dapr/dapr");

const [STORE, PUBSUB, TOPIC, HOST] = ["store", "bus", "news", "127.0.0.1"];
const LIMIT = 30_000;
const logger = { level: LogLevel.Warn };

const happened = new EventEmitter();

// Waits for an event that may not have happened yet; ask before the cause.
const soon = (name) => once(happened, name, { signal: AbortSignal.timeout(LIMIT) });
const ok = (step) => console.log(`ok ${step}`);

class Counter extends AbstractActor {
  async add(amount) {
    const [, count] = await this.getStateManager().tryGetState("count");
    const sum = (count ?? 0) + amount;
    await this.getStateManager().setState("count", sum);
    return sum;
  }

  async startTicking() {
    const milliseconds = (n) => Temporal.Duration.from({ milliseconds: n });
    await super.registerActorTimer("tick", "tick", milliseconds(10), milliseconds(50));
  }

  async tick() {
    await super.unregisterActorTimer("tick");
    happened.emit("tick");
  }
}

async function state(client) {
  await client.state.save(STORE, [{ key: "order", value: { item: "tea" } }]);
  ok("state-save");
  assert.deepEqual(await client.state.get(STORE, "order"), { item: "tea" });
  assert.ok(!(await client.state.get(STORE, "missing")));
  ok("state-get");

  // Only the bulk read of this SDK tells etags.
  const [{ etag }] = await client.state.getBulk(STORE, ["order"]);
  assert.ok(etag);
  const options = { concurrency: StateConcurrencyEnum.CONCURRENCY_FIRST_WRITE, consistency: StateConsistencyEnum.CONSISTENCY_STRONG };
  const write = (value) => client.state.save(STORE, [{ key: "order", value, etag, options }]);
  assert.equal((await write(2)).error, undefined);
  assert.match(String((await write(3)).error), /etag mismatch/);
  ok("state-etag");

  await client.state.transaction(STORE, [
    { operation: "upsert", request: { key: "one", value: 1 } },
    { operation: "delete", request: { key: "order" } },
  ]);
  assert.equal(Number(await client.state.get(STORE, "one")), 1);
  assert.ok(!(await client.state.get(STORE, "order")));
  ok("state-transaction");

  await client.state.delete(STORE, "one");
  assert.ok(!(await client.state.get(STORE, "one")));
  ok("state-delete");
}

async function run() {
  const { APP_PORT, DAPR_HTTP_PORT, DAPR_GRPC_PORT, CALLEE } = process.env;
  const clientOptions = { daprHost: HOST, daprPort: DAPR_HTTP_PORT, logger };
  const server = new DaprServer({ serverHost: HOST, serverPort: APP_PORT, clientOptions, logger });
  const greeted = soon("greeted");
  await server.invoker.listen(
    "greet",
    async (data) => {
      happened.emit("greeted");
      // The SDK hands every body over as JSON text.
      return { greeting: `hello ${JSON.parse(data.body)}` };
    },
    { method: HttpMethod.POST },
  );
  const event = soon("event");
  await server.pubsub.subscribe(PUBSUB, TOPIC, async (data) => happened.emit("event", data));
  await server.actor.init();
  await server.actor.registerActor(Counter);
  await server.start();
  await greeted;
  ok("invoked");

  const client = server.client;
  const answer = await client.invoker.invoke(CALLEE, "echo", HttpMethod.POST, { n: 1 });
  assert.deepEqual(answer, { echo: { n: 1 } });
  ok("invoke");
  await state(client);
  await client.pubsub.publish(PUBSUB, TOPIC, { id: 7 });
  ok("publish");
  assert.deepEqual((await event)[0], { id: 7 });
  ok("receive");

  const counter = new ActorProxyBuilder(Counter, client).build(new ActorId("1"));
  assert.equal(await counter.add(2), 2);
  ok("actor-invoke");
  assert.equal(await counter.add(3), 5);
  ok("actor-state");
  const tick = soon("tick");
  await counter.startTicking();
  await tick;
  ok("actor-timer");

  const grpc = new DaprClient({ daprHost: HOST, daprPort: DAPR_GRPC_PORT, communicationProtocol: CommunicationProtocolEnum.GRPC, logger });
  await grpc.state.save(STORE, [{ key: "grpc", value: { n: 1 } }]);
  assert.deepEqual(await grpc.state.get(STORE, "grpc"), { n: 1 });
  await grpc.state.delete(STORE, "grpc");
  ok("grpc");
  ok("done");
}

run().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
