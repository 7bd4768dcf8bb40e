// Uses the official Go SDK against a sidecar and prints `ok <step>` for every step that held.
// The client speaks gRPC, the service HTTP.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"reflect"
	"time"

	"github.com/dapr/go-sdk/actor"
	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
	daprd "github.com/dapr/go-sdk/service/http"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	store  = "store"
	pubsub = "bus"
	topic  = "news"
	limit  = 30 * time.Second
)

var (
	greeted = make(chan struct{}, 1)
	ticked  = make(chan struct{}, 1)
	events  = make(chan *common.TopicEvent, 1)
	sidecar client.Client
)

func ok(step string) { fmt.Println("ok", step) }

// Counter is the actor: its exported methods are what can be called.
type Counter struct {
	actor.ServerImplBaseCtx
}

func (c *Counter) Type() string { return "Counter" }

func (c *Counter) Add(ctx context.Context, amount int) (int, error) {
	count := 0
	known, err := c.GetStateManager().Contains(ctx, "count")
	if err != nil {
		return 0, err
	}
	if known {
		if err := c.GetStateManager().Get(ctx, "count", &count); err != nil {
			return 0, err
		}
	}
	count += amount
	return count, c.GetStateManager().Set(ctx, "count", count)
}

func (c *Counter) StartTicking(ctx context.Context) error {
	return sidecar.RegisterActorTimer(ctx, &client.RegisterActorTimerRequest{
		ActorType: c.Type(), ActorID: c.ID(), Name: "tick",
		DueTime: "10ms", Period: "50ms", CallBack: "Tick", Data: []byte(`"tock"`),
	})
}

func (c *Counter) Tick(ctx context.Context, _ string) error {
	select {
	case ticked <- struct{}{}:
	default:
	}
	return sidecar.UnregisterActorTimer(ctx, &client.UnregisterActorTimerRequest{
		ActorType: c.Type(), ActorID: c.ID(), Name: "tick",
	})
}

// CounterStub is what the SDK makes a proxy of.
type CounterStub struct {
	Add          func(context.Context, int) (int, error)
	StartTicking func(context.Context) error
}

func (*CounterStub) Type() string { return "Counter" }
func (*CounterStub) ID() string   { return "1" }

func await[T any](ctx context.Context, what string, from <-chan T) (T, error) {
	select {
	case got := <-from:
		return got, nil
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("waiting for %s: %w", what, ctx.Err())
	}
}

func state(ctx context.Context) error {
	if err := sidecar.SaveState(ctx, store, "order", []byte(`{"item":"tea"}`), nil); err != nil {
		return err
	}
	ok("state-save")
	first, err := sidecar.GetState(ctx, store, "order", nil)
	if err != nil || string(first.Value) != `{"item":"tea"}` || first.Etag == "" {
		return fmt.Errorf("read %+v: %w", first, err)
	}
	missing, err := sidecar.GetState(ctx, store, "missing", nil)
	if err != nil || len(missing.Value) != 0 {
		return fmt.Errorf("read a missing key %+v: %w", missing, err)
	}
	ok("state-get")

	once := client.WithConcurrency(client.StateConcurrencyFirstWrite)
	if err := sidecar.SaveStateWithETag(ctx, store, "order", []byte("2"), first.Etag, nil, once); err != nil {
		return err
	}
	err = sidecar.SaveStateWithETag(ctx, store, "order", []byte("3"), first.Etag, nil, once)
	if code := grpcCode(err); code != codes.Aborted {
		return fmt.Errorf("two writers with one etag: %v: %w", code, err)
	}
	ok("state-etag")

	err = sidecar.ExecuteStateTransaction(ctx, store, nil, []*client.StateOperation{
		{Type: client.StateOperationTypeUpsert, Item: &client.SetStateItem{Key: "one", Value: []byte("1")}},
		{Type: client.StateOperationTypeDelete, Item: &client.SetStateItem{Key: "order"}},
	})
	if err != nil {
		return err
	}
	items, err := sidecar.GetBulkState(ctx, store, []string{"one", "order"}, nil, 2)
	if err != nil {
		return err
	}
	values := map[string]string{}
	for _, item := range items {
		values[item.Key] = string(item.Value)
	}
	if !reflect.DeepEqual(values, map[string]string{"one": "1", "order": ""}) {
		return fmt.Errorf("after the transaction: %v", values)
	}
	ok("state-transaction")

	if err := sidecar.DeleteState(ctx, store, "one", nil); err != nil {
		return err
	}
	gone, err := sidecar.GetState(ctx, store, "one", nil)
	if err != nil || len(gone.Value) != 0 {
		return fmt.Errorf("read a deleted key %+v: %w", gone, err)
	}
	ok("state-delete")
	return nil
}

// grpcCode finds the status below the SDK's own words.
func grpcCode(err error) codes.Code {
	for ; err != nil; err = errors.Unwrap(err) {
		if found, isStatus := err.(interface{ GRPCStatus() *status.Status }); isStatus {
			return found.GRPCStatus().Code()
		}
	}
	return codes.OK
}

func actors(ctx context.Context) error {
	stub := new(CounterStub)
	sidecar.ImplActorClientStub(stub)
	if count, err := stub.Add(ctx, 2); err != nil || count != 2 {
		return fmt.Errorf("the first answer of the actor: %d, %w", count, err)
	}
	ok("actor-invoke")
	if count, err := stub.Add(ctx, 3); err != nil || count != 5 {
		return fmt.Errorf("the second answer of the actor: %d, %w", count, err)
	}
	ok("actor-state")
	if err := stub.StartTicking(ctx); err != nil {
		return err
	}
	if _, err := await(ctx, "the timer", ticked); err != nil {
		return err
	}
	ok("actor-timer")
	return nil
}

func run(ctx context.Context) error {
	service := daprd.NewService("127.0.0.1:" + os.Getenv("APP_PORT"))
	err := service.AddServiceInvocationHandler("greet", func(_ context.Context, in *common.InvocationEvent) (*common.Content, error) {
		greeted <- struct{}{}
		answer, err := json.Marshal(map[string]string{"greeting": "hello " + string(in.Data)})
		return &common.Content{Data: answer, ContentType: "application/json"}, err
	})
	if err != nil {
		return err
	}
	news := &common.Subscription{PubsubName: pubsub, Topic: topic, Route: "/news"}
	err = service.AddTopicEventHandler(news, func(_ context.Context, event *common.TopicEvent) (bool, error) {
		events <- event
		return false, nil
	})
	if err != nil {
		return err
	}
	service.RegisterActorImplFactoryContext(func() actor.ServerContext { return new(Counter) })
	go func() {
		if err := service.Start(); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	if _, err := await(ctx, "a greeting", greeted); err != nil {
		return err
	}
	ok("invoked")

	if sidecar, err = client.NewClient(); err != nil {
		return err
	}
	defer sidecar.Close()
	content := &client.DataContent{Data: []byte(`{"n":1}`), ContentType: "application/json"}
	answer, err := sidecar.InvokeMethodWithContent(ctx, os.Getenv("CALLEE"), "echo", "post", content)
	if err != nil || string(answer) != `{"echo":{"n":1}}` {
		return fmt.Errorf("the callee answered %s: %w", answer, err)
	}
	ok("invoke")
	if err := state(ctx); err != nil {
		return err
	}
	if err := sidecar.PublishEvent(ctx, pubsub, topic, []byte(`{"id":7}`), client.PublishEventWithContentType("application/json")); err != nil {
		return err
	}
	ok("publish")
	event, err := await(ctx, "the event", events)
	if err != nil {
		return err
	}
	if string(event.RawData) != `{"id":7}` || event.Topic != topic || event.PubsubName != pubsub {
		return fmt.Errorf("another event: %+v", event)
	}
	ok("receive")
	if err := actors(ctx); err != nil {
		return err
	}
	ok("done")
	return nil
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}
