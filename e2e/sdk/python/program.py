"""Uses the official Python SDK against a sidecar and prints `ok <step>` for every step that held.

State, events and invocation go over gRPC, actors over HTTP: that is how the SDK does it.
"""

import asyncio
import json
import os
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc
import uvicorn
from dapr.actor import Actor, ActorId, ActorInterface, ActorProxy, actormethod
from dapr.clients import DaprClient
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from dapr.clients.grpc._state import Concurrency, Consistency, StateOptions
from dapr.ext.fastapi import DaprActor, DaprApp
from fastapi import Body, FastAPI, Request

STORE, PUBSUB, TOPIC = 'store', 'bus', 'news'
LIMIT = 30

greeted = asyncio.Event()
ticked = asyncio.Event()
events: asyncio.Queue = asyncio.Queue()


def ok(step: str) -> None:
    print(f'ok {step}', flush=True)


def check(held: bool, seen) -> None:
    if not held:
        raise AssertionError(f'unexpected: {seen!r}')


class CounterInterface(ActorInterface):
    @actormethod(name='Add')
    async def add(self, amount: int) -> int: ...

    @actormethod(name='StartTicking')
    async def start_ticking(self) -> None: ...


class Counter(Actor, CounterInterface):
    async def add(self, amount: int) -> int:
        _, count = await self._state_manager.try_get_state('count')
        count = (count or 0) + amount
        await self._state_manager.set_state('count', count)
        return count

    async def start_ticking(self) -> None:
        await self.register_timer('tick', self.tick, 'tock', timedelta(milliseconds=10), timedelta(milliseconds=50))

    async def tick(self, data) -> None:
        await self.unregister_timer('tick')
        # The SDK hands the timer's state over as bytes or text, depending on its version.
        if 'tock' in str(data):
            ticked.set()


@asynccontextmanager
async def lifespan(_: FastAPI):
    await actors.register_actor(Counter)
    yield


app = FastAPI(lifespan=lifespan)
actors = DaprActor(app)
dapr_app = DaprApp(app)


@app.post('/greet')
async def greet(request: Request):
    greeted.set()
    return {'greeting': f'hello {(await request.body()).decode()}'}


@dapr_app.subscribe(pubsub=PUBSUB, topic=TOPIC)
async def on_news(event: dict = Body()):
    await events.put(event)


def state_and_events() -> None:
    """The blocking half: the client of the SDK is synchronous."""
    with DaprClient() as dapr:
        answer = dapr.invoke_method(os.environ['CALLEE'], 'echo', data=json.dumps({'n': 1}), http_verb='POST', content_type='application/json')
        check(answer.json() == {'echo': {'n': 1}}, answer.data)
        ok('invoke')

        dapr.save_state(STORE, 'order', json.dumps({'item': 'tea'}))
        ok('state-save')
        first = dapr.get_state(STORE, 'order')
        check(first.json() == {'item': 'tea'} and first.etag, first.data)
        check(dapr.get_state(STORE, 'missing').data == b'', 'a missing key')
        ok('state-get')

        once = StateOptions(concurrency=Concurrency.first_write, consistency=Consistency.strong)
        dapr.save_state(STORE, 'order', '2', etag=first.etag, options=once)
        try:
            dapr.save_state(STORE, 'order', '3', etag=first.etag, options=once)
            raise AssertionError('two writers with one etag')
        except grpc.RpcError as error:
            check(error.code() == grpc.StatusCode.ABORTED, error)
        ok('state-etag')

        dapr.execute_state_transaction(STORE, [
            TransactionalStateOperation(key='one', data='1', operation_type=TransactionOperationType.upsert),
            TransactionalStateOperation(key='order', data='', operation_type=TransactionOperationType.delete),
        ])
        items = {item.key: item.data for item in dapr.get_bulk_state(STORE, ['one', 'order']).items}
        check(items == {'one': b'1', 'order': b''}, items)
        ok('state-transaction')

        dapr.delete_state(STORE, 'one')
        check(dapr.get_state(STORE, 'one').data == b'', 'a deleted key')
        ok('state-delete')

        dapr.publish_event(PUBSUB, TOPIC, json.dumps({'id': 7}), data_content_type='application/json')
        ok('publish')


async def run() -> None:
    # The other side calls once the sidecar is ready: from then on everything is.
    await asyncio.wait_for(greeted.wait(), LIMIT)
    ok('invoked')
    await asyncio.to_thread(state_and_events)
    event = await asyncio.wait_for(events.get(), LIMIT)
    check(event['data'] == {'id': 7} and event['topic'] == TOPIC and event['pubsubname'] == PUBSUB, event)
    ok('receive')

    counter = ActorProxy.create('Counter', ActorId('1'), CounterInterface)
    check(await counter.Add(2) == 2, 'the first answer of the actor')
    ok('actor-invoke')
    check(await counter.Add(3) == 5, 'the second answer of the actor')
    ok('actor-state')
    await counter.StartTicking()
    await asyncio.wait_for(ticked.wait(), LIMIT)
    ok('actor-timer')


async def main() -> None:
    server = uvicorn.Server(uvicorn.Config(app, host='127.0.0.1', port=int(os.environ['APP_PORT']), log_level='warning'))
    serving = asyncio.create_task(server.serve())
    await run()
    ok('done')
    server.should_exit = True
    await serving


asyncio.run(main())
