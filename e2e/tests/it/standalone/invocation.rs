//! One application calls another by its name.

use anyhow::Result;
use dapr_e2e::standalone::{ControlPlane, Sidecar, SidecarSpec, metric};
use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, App, Request, Stage, configuration, fetch, story};

/// Two applications under one certificate authority.
struct Pair {
    caller: Sidecar,
    caller_id: String,
    callee: Sidecar,
    callee_id: String,
    callee_app: App,
    _control_plane: ControlPlane,
}

impl Pair {
    async fn start(
        stage: &Stage,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
        refine: impl FnOnce(&mut SidecarSpec, &str) -> Result<()>,
    ) -> Result<Self> {
        let control_plane = stage.control_plane(0).await?;
        let (caller_id, callee_id) = (stage.id("caller"), stage.id("callee"));
        let callee_app = App::start(script).await?;
        let mut spec = stage.spec(&callee_id, Some(&callee_app));
        refine(&mut spec, &caller_id)?;
        let callee = stage.sidecar(&spec, Some(&control_plane)).await?;
        let caller = stage
            .sidecar(&stage.spec(&caller_id, None), Some(&control_plane))
            .await?;
        Ok(Self {
            caller,
            caller_id,
            callee,
            callee_id,
            callee_app,
            _control_plane: control_plane,
        })
    }

    fn url(&self, method: &str) -> String {
        self.caller
            .url(&format!("invoke/{}/method/{method}", self.callee_id))
    }
}

#[test]
fn a_body_beyond_the_limit_is_refused_by_the_callers_sidecar() {
    story("invocation-limit", async |stage| {
        let app = App::plain().await?;
        let callee_id = stage.id("callee");
        let spec = stage.spec(&callee_id, Some(&app));
        let _callee = stage.sidecar(&spec, None).await?;
        let mut spec = stage.spec(&stage.id("caller"), None);
        spec.flags = vec!["--max-body-size=1Ki".to_owned()];
        let caller = stage.sidecar(&spec, None).await?;
        let url = caller.url(&format!("invoke/{callee_id}/method/order"));
        let request = stage.http.post(url).body("x".repeat(2048));
        let message = fetch(request).await?.refusal(500, "ERR_DIRECT_INVOKE")?;
        assert_eq!(
            message,
            format!("failed to invoke, id: {callee_id}, err: stream too large")
        );
        Ok(())
    });
}

#[test]
fn a_call_arrives_as_it_was_sent() {
    story("invocation-passes", async |stage| {
        let pair = Pair::start(stage, |_| Answer::json(&json!({})), |_, _| Ok(())).await?;
        for verb in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let method = Method::from_bytes(verb.as_bytes())?;
            let url = pair.url(&format!("{verb}/order?item=tea&note=a%2Bb%20c"));
            let request = stage
                .http
                .request(method, url)
                .header("x-custom", "one")
                .header("content-type", "text/plain")
                .body(format!("body of {verb}"));
            fetch(request).await?.expect(200)?;

            let seen = pair.callee_app.seen(&format!("/{verb}/order"));
            assert_eq!(seen.len(), 1, "{verb}: {seen:?}");
            assert_eq!(seen[0].method, verb);
            assert_eq!(seen[0].query, "item=tea&note=a%2Bb%20c");
            assert_eq!(seen[0].header("x-custom"), "one");
            assert_eq!(seen[0].header("content-type"), "text/plain");
            assert_eq!(seen[0].header("dapr-caller-app-id"), pair.caller_id);
            assert_eq!(seen[0].header("dapr-caller-namespace"), "default");
            assert_eq!(seen[0].header("dapr-callee-app-id"), pair.callee_id);
            assert_eq!(seen[0].header("destination-app-id"), "");
            assert_eq!(seen[0].body, format!("body of {verb}"));
        }

        // Larger than any buffer between the two, so it travels in many chunks.
        let large = "0123456789abcdef".repeat(64 * 1024);
        let request = stage.http.post(pair.url("large")).body(large.clone());
        fetch(request).await?.expect(200)?;
        assert!(
            pair.callee_app.seen("/large")[0].body == large,
            "the large body was changed"
        );

        let sent = "dapr_runtime_service_invocation_req_sent_total";
        let received = "dapr_runtime_service_invocation_req_recv_total";
        assert_eq!(metric(pair.caller.metrics_port, sent).await?, 6.0);
        assert_eq!(metric(pair.callee.metrics_port, received).await?, 6.0);
        Ok(())
    });
}

#[test]
fn a_call_without_a_body_is_sent_as_its_verb_needs_it() {
    story("invocation-bodiless", async |stage| {
        let app = App::start(|_| Answer::json(&json!({}))).await?;
        let callee_id = stage.id("callee");
        let spec = stage.spec(&callee_id, Some(&app));
        let _callee = stage.sidecar(&spec, None).await?;
        let caller = stage
            .sidecar(&stage.spec(&stage.id("caller"), None), None)
            .await?;
        // What rarely has a body must not be chunked; the letters of a verb do not matter.
        for (verb, encoding) in [("GET", ""), ("DELETE", ""), ("patch", "chunked")] {
            let method = Method::from_bytes(verb.as_bytes())?;
            let url = caller.url(&format!("invoke/{callee_id}/method/{verb}"));
            fetch(stage.http.request(method, url)).await?.expect(200)?;

            let seen = app.seen(&format!("/{verb}"));
            assert_eq!(seen.len(), 1, "{verb}: {seen:?}");
            assert_eq!(seen[0].method, verb.to_uppercase().as_str());
            assert_eq!(seen[0].header("transfer-encoding"), encoding, "{verb}");
            assert!(seen[0].body.is_empty(), "{verb}");
        }
        Ok(())
    });
}

#[test]
fn the_application_decides_the_answer() {
    story("invocation-answers", async |stage| {
        let script = |request: &Request| {
            let status = request
                .path
                .trim_start_matches("/status/")
                .parse()
                .unwrap_or(404);
            let answer = Answer::status(status)
                .with_header("x-answer", "yes")
                .with_header("location", "/elsewhere");
            match status {
                204 | 304 => answer,
                _ => answer
                    .with_header("content-type", "text/custom")
                    .with_body(format!("it is {status}")),
            }
        };
        let pair = Pair::start(stage, script, |_, _| Ok(())).await?;
        for status in [200, 201, 204, 302, 400, 404, 418, 500, 503] {
            let path = format!("status/{status}");
            let reply = fetch(stage.http.get(pair.url(&path)))
                .await?
                .expect(status)?;
            assert_eq!(reply.header("x-answer"), "yes", "{status}");
            if status != 204 {
                assert_eq!(reply.body, format!("it is {status}"));
                assert_eq!(reply.header("content-type"), "text/custom");
            }
            // An answer of the application is final: nothing retries it unless a policy says so.
            assert_eq!(
                pair.callee_app.seen(&format!("/{path}")).len(),
                1,
                "{status}"
            );
        }
        Ok(())
    });
}

#[test]
fn an_application_is_addressed_in_three_ways_and_by_itself() {
    story("invocation-addresses", async |stage| {
        let pair = Pair::start(stage, |_| Answer::json(&json!({})), |_, _| Ok(())).await?;
        let root = format!("http://127.0.0.1:{}", pair.caller.http_port);

        let request = stage.http.get(format!("{root}/by/header?q=1"));
        fetch(request.header("dapr-app-id", &pair.callee_id))
            .await?
            .expect(200)?;
        let seen = pair.callee_app.seen("/by/header");
        assert_eq!((seen.len(), seen[0].query.as_str()), (1, "q=1"));
        assert_eq!(
            seen[0].header("dapr-app-id"),
            "",
            "the header is not for the callee"
        );

        let request = stage.http.get(format!("{root}/by/user"));
        fetch(request.basic_auth("dapr-app-id", Some(&pair.callee_id)))
            .await?
            .expect(200)?;
        assert_eq!(pair.callee_app.seen("/by/user").len(), 1);

        let message = fetch(stage.http.get(format!("{root}/nobody")))
            .await?
            .refusal(404, "ERR_DIRECT_INVOKE")?;
        assert_eq!(
            message,
            "failed getting app id either from the URL path or the header dapr-app-id"
        );

        let own = pair
            .callee
            .url(&format!("invoke/{}/method/own", pair.callee_id));
        fetch(stage.http.get(own)).await?.expect(200)?;
        let seen = pair.callee_app.seen("/own");
        assert_eq!(seen.len(), 1);
        assert_eq!(
            seen[0].header("dapr-caller-app-id"),
            "",
            "no network, no caller"
        );
        Ok(())
    });
}

#[test]
fn what_cannot_be_called_is_refused() {
    story("invocation-refuses", async |stage| {
        let pair = Pair::start(stage, |_| Answer::json(&json!({})), |_, _| Ok(())).await?;

        let unknown = stage.id("unknown");
        let message = fetch(
            stage
                .http
                .get(pair.caller.url(&format!("invoke/{unknown}/method/a"))),
        )
        .await?
        .refusal(500, "ERR_DIRECT_INVOKE")?;
        assert!(
            message.starts_with(&format!("failed to invoke, id: {unknown}, err: ")),
            "{message}"
        );

        let message = fetch(stage.http.get(pair.caller.url("invoke/a.b.c/method/a")))
            .await?
            .refusal(500, "ERR_DIRECT_INVOKE")?;
        assert_eq!(
            message,
            "failed to invoke, id: a.b.c, err: invalid app id a.b.c"
        );

        let message = fetch(stage.http.get(pair.url("a%23b")))
            .await?
            .refusal(500, "ERR_DIRECT_INVOKE")?;
        let reason = "rpc error: code = InvalidArgument desc = invalid method: method contains forbidden character: \"a#b\"";
        assert_eq!(
            message,
            format!("failed to invoke, id: {}, err: {reason}", pair.callee_id)
        );

        let own = pair
            .caller
            .url(&format!("invoke/{}/method/a", pair.caller_id));
        let message = fetch(stage.http.get(own))
            .await?
            .refusal(500, "ERR_DIRECT_INVOKE")?;
        assert!(
            message.ends_with("cannot invoke local endpoint: app channel not initialized"),
            "{message}"
        );
        Ok(())
    });
}

#[test]
fn the_callee_decides_who_may_call_what() {
    story("invocation-policies", async |stage| {
        let script = |_: &Request| Answer::json(&json!({}));
        let pair = Pair::start(stage, script, |spec, caller_id| {
            let operations = json!([{ "name": "/open", "httpVerb": ["GET"], "action": "allow" }]);
            let policy = json!({
                "appId": caller_id, "namespace": "default", "trustDomain": "public",
                "defaultAction": "deny", "operations": operations,
            });
            let access =
                json!({ "defaultAction": "deny", "trustDomain": "public", "policies": [policy] });
            let document = configuration("access", json!({ "accessControl": access }));
            let file = stage.file("access.yaml", &document)?;
            spec.flags.push(format!("--config={}", file.display()));
            Ok(())
        })
        .await?;

        fetch(stage.http.get(pair.url("open"))).await?.expect(200)?;
        fetch(stage.http.get(pair.url("open/below")))
            .await?
            .expect(200)?;
        for (request, verb) in [
            (stage.http.post(pair.url("open")), "POST"),
            (stage.http.get(pair.url("closed")), "GET"),
        ] {
            let message = fetch(request).await?.refusal(403, "ERR_DIRECT_INVOKE")?;
            let denied = format!(
                "failed to invoke, id: {}, err: rpc error: code = PermissionDenied desc = access control policy \
                 has denied access to id: spiffe://public/ns/default/{}",
                pair.callee_id, pair.caller_id
            );
            assert!(
                message.starts_with(&denied) && message.ends_with(&format!("verb: {verb}")),
                "{message}"
            );
        }
        assert_eq!(
            pair.callee_app.seen("/open").len(),
            1,
            "a denied call reached the application"
        );
        assert!(pair.callee_app.seen("/closed").is_empty());
        // Neither side counts what was refused as a call that was answered.
        let name = |part: &str| format!("dapr_runtime_service_invocation_{part}_total");
        for (port, part, expected) in [
            (pair.caller.metrics_port, "req_sent", 4.0),
            (pair.caller.metrics_port, "res_recv", 2.0),
            (pair.callee.metrics_port, "req_recv", 2.0),
            (pair.callee.metrics_port, "res_sent", 2.0),
        ] {
            let counted = metric(port, &name(part)).await?;
            assert_eq!(counted, expected, "{part}");
        }
        // The policy is for others: the own sidecar is trusted.
        let own = pair
            .callee
            .url(&format!("invoke/{}/method/closed", pair.callee_id));
        fetch(stage.http.get(own)).await?.expect(200)?;
        Ok(())
    });
}
