use clap::Parser;
use proptest::prelude::*;

use super::{Dashes, Exit, try_parse_from, warnings};
use crate::duration::GoDuration;
use crate::log::LogArgs;
use crate::metrics::MetricsArgs;

#[derive(Debug, Parser)]
#[command(name = "sample", about = "A sample.")]
struct Sample {
    /// A number.
    #[arg(long, default_value_t = -1, value_parser = super::int::<i32>)]
    app_max_concurrency: i32,
    /// A boolean that is off.
    #[arg(long)]
    enable_mtls: bool,
    /// A boolean that may be unset.
    #[arg(long)]
    enable_api_logging: Option<bool>,
    /// A duration.
    #[arg(long, default_value = "30s")]
    timeout: GoDuration,
    /// A list.
    #[arg(long, value_delimiter = ',')]
    resources_path: Vec<String>,
    /// A text.
    #[arg(long, default_value = "")]
    app_id: String,
    /// Placement's spelling.
    #[arg(long = "replicationFactor", default_value_t = 100)]
    replication_factor: u32,
    #[command(flatten)]
    metrics: MetricsArgs,
    #[command(flatten)]
    log: LogArgs,
}

fn read(dashes: Dashes, line: &str) -> Result<Sample, Exit> {
    try_parse_from(
        dashes,
        std::iter::once("sample").chain(line.split_whitespace()),
    )
}

#[track_caller]
fn parsed(line: &str) -> Sample {
    read(Dashes::OneOrTwo, line).unwrap_or_else(|exit| panic!("{line}: {}", exit.text))
}

#[track_caller]
fn check_refused(line: &str, expected: &str) {
    let exit = read(Dashes::OneOrTwo, line).map(drop).expect_err(line);
    assert_eq!(exit.code, 2, "{line}");
    let (usage, message) = exit
        .text
        .trim_end()
        .rsplit_once('\n')
        .expect("usage and message");
    assert_eq!(message, expected, "{line}");
    assert!(usage.contains("--app-max-concurrency"), "{usage}");
}

#[test]
fn defaults() {
    let sample = parsed("");
    assert_eq!(sample.app_max_concurrency, -1);
    assert!(!sample.enable_mtls && sample.enable_api_logging.is_none());
    assert_eq!(sample.timeout.to_string(), "30s");
    assert!(sample.resources_path.is_empty() && sample.app_id.is_empty());
    assert_eq!(
        sample.metrics,
        MetricsArgs {
            enable_metrics: true,
            metrics_port: "9090".to_owned(),
            metrics_listen_address: "0.0.0.0".to_owned()
        }
    );
    assert_eq!(
        sample.log,
        LogArgs {
            log_level: "info".to_owned(),
            log_as_json: false,
            log_file: None
        }
    );
}

#[test]
fn one_dash_or_two_and_both_ways_to_give_a_value() {
    for line in [
        "--app-id orders",
        "-app-id orders",
        "--app-id=orders",
        "-app-id=orders",
    ] {
        assert_eq!(parsed(line).app_id, "orders", "{line}");
    }
    assert_eq!(parsed("-replicationFactor 7").replication_factor, 7);
    assert_eq!(parsed("--app-max-concurrency -1").app_max_concurrency, -1);
    assert_eq!(parsed("--app-max-concurrency -10").app_max_concurrency, -10);
    assert_eq!(parsed("--app-max-concurrency=-10").app_max_concurrency, -10);
    assert_eq!(
        parsed("--app-id --enable-mtls").app_id,
        "--enable-mtls",
        "the next word is the value"
    );
    assert_eq!(parsed("--app-id=").app_id, "");
    assert_eq!(
        parsed("--log-file=").log.log_file,
        Some("".into()),
        "an empty path is for its reader to judge"
    );
}

#[test]
fn booleans() {
    for (line, expected) in [
        ("--enable-mtls", true),
        ("-enable-mtls", true),
        ("--enable-mtls=true", true),
        ("--enable-mtls=1", true),
        ("--enable-mtls=false", false),
        ("-enable-mtls=F", false),
        ("--enable-mtls --enable-mtls=false", false),
        // Go takes no separate value: the word is read past.
        ("--enable-mtls false", true),
    ] {
        assert_eq!(parsed(line).enable_mtls, expected, "{line}");
    }
    assert!(!parsed("--enable-metrics=false").metrics.enable_metrics);
    assert!(parsed("--enable-metrics").metrics.enable_metrics);
    assert_eq!(
        parsed("--enable-api-logging").enable_api_logging,
        Some(true)
    );
    assert_eq!(
        parsed("--enable-api-logging=false").enable_api_logging,
        Some(false)
    );
    assert!(parsed("--log-as-json").log.log_as_json);
}

#[test]
fn the_last_value_wins_and_lists_grow() {
    assert_eq!(parsed("--app-id a --app-id b").app_id, "b");
    assert_eq!(
        parsed("--resources-path a,b --resources-path c").resources_path,
        ["a", "b", "c"]
    );
}

#[test]
fn bad_flags_are_status_2_in_the_words_of_go() {
    check_refused("--x", "unknown flag: --x");
    check_refused("-xyz", "unknown flag: --xyz");
    check_refused("--x=1", "unknown flag: --x");
    check_refused("--app-i orders", "unknown flag: --app-i");
    check_refused("-x", "unknown shorthand flag: 'x' in -x");
    check_refused("--h", "unknown flag: --h");
    check_refused("-h=x", "unknown flag: --h");
    check_refused("--app-id", "flag needs an argument: --app-id");
    check_refused(
        "--app-max-concurrency x",
        r#"invalid argument "x" for "--app-max-concurrency" flag: strconv.ParseInt: parsing "x": invalid syntax"#,
    );
    check_refused(
        "--enable-mtls=x",
        r#"invalid argument "x" for "--enable-mtls" flag: strconv.ParseBool: parsing "x": invalid syntax"#,
    );
    check_refused(
        "--timeout 5",
        r#"invalid argument "5" for "--timeout" flag: time: missing unit in duration "5""#,
    );
}

#[test]
fn help_is_usage_with_status_0() {
    for (dashes, line) in [
        (Dashes::OneOrTwo, "--help"),
        (Dashes::OneOrTwo, "-help"),
        (Dashes::OneOrTwo, "-h"),
        (Dashes::OneOrTwo, "--help=x"),
        (Dashes::OneOrTwo, "--app-id a --help"),
        (Dashes::Two, "-h"),
        (Dashes::Two, "-help"),
        (Dashes::Alike, "-help"),
        (Dashes::Alike, "-h"),
        (Dashes::Alike, "--h"),
        (Dashes::Alike, "-h=x"),
        (Dashes::Alike, "--app-id a --h"),
    ] {
        let exit = read(dashes, line).map(drop).expect_err(line);
        assert_eq!(exit.code, 0, "{line}");
        assert!(
            exit.text.contains("Usage: sample") && exit.text.contains("--enable-mtls"),
            "{}",
            exit.text
        );
        assert!(!exit.text.contains("positional"), "{}", exit.text);
    }
}

#[test]
fn two_dashes_only() {
    assert_eq!(
        read(Dashes::Two, "--app-id a").expect("two dashes").app_id,
        "a"
    );
    let exit = read(Dashes::Two, "-app-id a")
        .map(drop)
        .expect_err("one dash");
    assert_eq!(exit.code, 2);
    assert!(
        exit.text
            .ends_with("\nunknown shorthand flag: 'a' in -app-id\n"),
        "{}",
        exit.text
    );
}

#[test]
fn words_that_are_no_flags_are_told() {
    assert_eq!(warnings(&[]), "");
    assert_eq!(
        warnings(&["false".into()]),
        "argument \"false\" is no flag and has no effect; boolean flags take a value as in --flag=false\n"
    );
}

proptest! {
    #[test]
    fn no_command_line_panics(
        words in proptest::collection::vec("-{0,3}(app-id|enable-mtls|timeout|x|h|)=?[-a-z0-9]{0,3}|\\PC{0,8}", 0..5)
    ) {
        for dashes in [Dashes::OneOrTwo, Dashes::Alike, Dashes::Two] {
            let words = std::iter::once("sample").chain(words.iter().map(String::as_str));
            if let Err(exit) = try_parse_from::<Sample, _, _>(dashes, words) {
                prop_assert!(exit.code == 0 || exit.code == 2);
                prop_assert!(exit.text.ends_with('\n'));
            }
        }
    }
}
