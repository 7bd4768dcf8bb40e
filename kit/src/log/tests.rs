use std::sync::Arc;

use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

/// The lines `log` makes at a level, without their times and hosts.
fn captured(level: &str, format: Format, log: impl FnOnce()) -> Vec<String> {
    let output = Arc::new(Output::Memory(Default::default()));
    let identity = LogIdentity::new("dapr.default").with_app_id("orders");
    let subscriber = tracing_subscriber::registry()
        .with(level.parse::<Level>().expect("a level").targets())
        .with(Lines::new(format, identity, output.clone()));
    tracing::subscriber::with_default(subscriber, log);
    let Output::Memory(memory) = &*output else {
        unreachable!("made above")
    };
    let text = String::from_utf8(memory.lock().clone()).expect("UTF-8");
    text.lines()
        .map(|line| without(&without(line, "instance"), "time"))
        .collect()
}

/// The line without one key, in either format.
fn without(line: &str, key: &str) -> String {
    for (start, end) in [(format!("\"{key}\":\""), "\","), (format!("{key}="), " ")] {
        if let Some(from) = line.find(&start) {
            let rest = &line[from + start.len()..];
            let to = rest.find(end).expect("more keys follow") + end.len();
            return format!("{}{}", &line[..from], &rest[to..]);
        }
    }
    panic!("no {key} in {line}")
}

fn every_level() {
    tracing::debug!(target: "dapr.runtime", "d");
    tracing::info!(target: "dapr.runtime", "i");
    tracing::warn!(target: "dapr.runtime", "w");
    tracing::error!(target: "dapr.runtime", "e");
    tracing::error!(target: FATAL, "f");
    tracing::info!(target: "hyper::proto", "third party info");
    tracing::warn!(target: "hyper::proto", "third party warning");
    tracing::info!(target: "dapr.runtime.http-info", "HTTP API Called");
    tracing::info!(target: "dapr.runtime.grpc.api-info", "gRPC API Called");
}

#[track_caller]
fn check_levels(level: &str, expected: &[&str]) {
    let messages: Vec<String> = captured(level, Format::Text, every_level)
        .iter()
        .map(|line| {
            line.split("msg=")
                .nth(1)
                .and_then(|rest| rest.split(" app_id").next())
                .expect("msg")
                .to_owned()
        })
        .collect();
    assert_eq!(messages, expected, "{level}");
}

#[test]
fn levels_filter_and_api_scopes_stay() {
    const API: [&str; 2] = ["\"HTTP API Called\"", "\"gRPC API Called\""];
    let foreign = "\"third party warning\"";
    check_levels("debug", &["d", "i", "w", "e", "f", foreign, API[0], API[1]]);
    check_levels("info", &["i", "w", "e", "f", foreign, API[0], API[1]]);
    check_levels("WARN", &["w", "e", "f", foreign, API[0], API[1]]);
    check_levels("error", &["e", "f", API[0], API[1]]);
    check_levels("fatal", &["f", API[0], API[1]]);
    assert_eq!(
        "warning"
            .parse::<Level>()
            .expect_err("no level")
            .to_string(),
        "invalid value for --log-level: warning"
    );
}

#[test]
fn events_become_text_lines() {
    let lines = captured("info", Format::Text, || {
        tracing::info!(target: "dapr.contrib", component = "s (state.x/v1)", "ready");
        tracing::warn!(
            scope = "dapr.runtime.actor",
            count = 3,
            ok = true,
            missing = Option::<i64>::None,
            "two words"
        );
        tracing::error!(target: FATAL, "gone");
        tracing::info!(target: "dapr.x", level = "own", app_id = "other", error = %std::fmt::Error, "m");
    });
    assert_eq!(
        lines,
        [
            "level=info msg=ready app_id=orders component=\"s (state.x/v1)\" scope=dapr.contrib type=log ver=1.18.3",
            "level=warning msg=\"two words\" app_id=orders count=3 ok=true scope=dapr.runtime.actor type=log ver=1.18.3",
            "level=fatal msg=gone app_id=orders scope=dapr.default type=log ver=1.18.3",
            "level=info msg=m app_id=other error=\"an error occurred when formatting an argument\" fields.level=own \
             scope=dapr.x type=log ver=1.18.3",
        ]
    );
}

#[test]
fn events_become_json_lines() {
    let lines = captured("info", Format::Json, || {
        tracing::info!(
            target: "dapr.runtime.http-info",
            method = "GET /v1.0/metadata", code = 200, duration = 1, size = 12u64, ratio = 0.5, bad = f64::NAN,
            "HTTP API Called"
        );
    });
    assert_eq!(
        lines,
        [
            "{\"app_id\":\"orders\",\"bad\":\"NaN\",\"code\":200,\"duration\":1,\"level\":\"info\",\"method\":\"GET /v1.0/metadata\",\
          \"msg\":\"HTTP API Called\",\"ratio\":0.5,\"scope\":\"dapr.runtime.http-info\",\"size\":12,\"type\":\"log\",\"ver\":\"1.18.3\"}"
        ]
    );
}

#[test]
fn a_value_that_logs_while_it_is_printed_is_no_deadlock() {
    struct Chatty;
    impl std::fmt::Debug for Chatty {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            tracing::info!(target: "dapr.x", "inner");
            f.write_str("chatty")
        }
    }
    let lines = captured(
        "info",
        Format::Text,
        || tracing::info!(target: "dapr.x", value = ?Chatty, "outer"),
    );
    assert!(
        lines.iter().any(|line| line.contains("value=chatty")),
        "{lines:?}"
    );
}

#[test]
fn a_log_file_is_appended_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("daprd.log");
    for line in [b"one\n", b"two\n"] {
        let output = Output::file(&path).expect("opens");
        output.write(line);
        output.flush();
    }
    assert_eq!(std::fs::read_to_string(&path).expect("reads"), "one\ntwo\n");
    Output::file(folder.path()).expect_err("a folder is no file");
}
