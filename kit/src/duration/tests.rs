use std::time::Duration;

use jiff::SignedDuration;
use proptest::prelude::*;

use super::{GoDuration, ParseError, SignedGoDuration, format, parse};

#[track_caller]
fn check_parse(text: &str, expected_nanos: i64) {
    assert_eq!(
        parse(text),
        Ok(SignedDuration::from_nanos(expected_nanos)),
        "{text:?}"
    );
}

#[track_caller]
fn check_error(text: &str, expected: &str) {
    assert_eq!(parse(text).expect_err(text).to_string(), expected);
}

#[track_caller]
fn check_format(nanos: i64, expected: &str) {
    assert_eq!(format(SignedDuration::from_nanos(nanos)), expected);
}

#[test]
fn parses_what_go_parses() {
    check_parse("0", 0);
    check_parse("-0", 0);
    check_parse("+0", 0);
    check_parse("0s", 0);
    check_parse("5s", 5_000_000_000);
    check_parse("30s", 30_000_000_000);
    check_parse("+5s", 5_000_000_000);
    check_parse("-2s", -2_000_000_000);
    check_parse("500ms", 500_000_000);
    check_parse("1.5h", 5_400_000_000_000);
    check_parse("1h30m", 5_400_000_000_000);
    check_parse("3m1h", 3_780_000_000_000);
    check_parse("5.s", 5_000_000_000);
    check_parse(".5s", 500_000_000);
    check_parse("1us1\u{b5}s1\u{3bc}s1ns", 3_001);
    check_parse("-1h2m3.25s", -3_723_250_000_000);
    check_parse("0.3333333333333333333h", 1_200_000_000_000);
    check_parse("0.100000000000000000000h", 360_000_000_000);
    check_parse("9223372036854775807ns", i64::MAX);
    check_parse("9223372036854775.807us", i64::MAX);
    check_parse("-9223372036854775808ns", i64::MIN);
    check_parse("-2562047h47m16.854775808s", i64::MIN);
}

#[test]
fn refuses_with_the_texts_of_go() {
    check_error("", r#"time: invalid duration """#);
    check_error("-", r#"time: invalid duration "-""#);
    check_error(".", r#"time: invalid duration ".""#);
    check_error("s", r#"time: invalid duration "s""#);
    check_error("-.s", r#"time: invalid duration "-.s""#);
    check_error("3", r#"time: missing unit in duration "3""#);
    check_error("1h3", r#"time: missing unit in duration "1h3""#);
    check_error("abc", r#"time: invalid duration "abc""#);
    check_error("1d", r#"time: unknown unit "d" in duration "1d""#);
    check_error("5 s", r#"time: unknown unit " s" in duration "5 s""#);
    check_error("1-s", r#"time: unknown unit "-s" in duration "1-s""#);
    check_error("1\"", r#"time: unknown unit "\"" in duration "1\"""#);
    check_error(
        "1\u{e9}",
        r#"time: unknown unit "\xc3\xa9" in duration "1\xc3\xa9""#,
    );
    check_error("\n", r#"time: invalid duration "\x0a""#);
    check_error(
        "9223372036854775808ns",
        r#"time: invalid duration "9223372036854775808ns""#,
    );
    check_error("3000000h", r#"time: invalid duration "3000000h""#);
    check_error(
        "99999999999999999999s",
        r#"time: invalid duration "99999999999999999999s""#,
    );
    check_error(
        "-9223372036854775809ns",
        r#"time: invalid duration "-9223372036854775809ns""#,
    );
}

#[test]
fn formats_as_go() {
    check_format(0, "0s");
    check_format(1, "1ns");
    check_format(1_100, "1.1\u{b5}s");
    check_format(2_200_000, "2.2ms");
    check_format(500_000_000, "500ms");
    check_format(5_000_000_000, "5s");
    check_format(90_000_000_000, "1m30s");
    check_format(7_200_000_000_000, "2h0m0s");
    check_format(3_661_001_000_000, "1h1m1.001s");
    check_format(-1_500_000_000, "-1.5s");
    check_format(i64::MAX, "2562047h47m16.854775807s");
    check_format(i64::MIN, "-2562047h47m16.854775808s");
    assert_eq!(format(SignedDuration::MAX), "2562047h47m16.854775807s");
}

#[test]
fn the_flag_type_refuses_negative_lengths() {
    assert_eq!("1m30s".parse(), Ok(GoDuration(Duration::from_secs(90))));
    assert_eq!(
        "-2s"
            .parse::<GoDuration>()
            .expect_err("negative")
            .to_string(),
        "duration -2s must not be negative"
    );
    assert_eq!(GoDuration(Duration::from_millis(1500)).to_string(), "1.5s");
    assert_eq!(
        "x".parse::<GoDuration>()
            .expect_err("no number")
            .to_string(),
        ParseError::Invalid("x".to_owned()).to_string()
    );
}

#[test]
fn a_signed_flag_tells_what_is_no_length() {
    let check = |text: &str, positive: Option<Duration>, shown: &str| {
        let duration: SignedGoDuration = text.parse().expect("a duration");
        assert_eq!(duration.positive(), positive, "{text}");
        assert_eq!(duration.to_string(), shown);
    };
    check("90s", Some(Duration::from_secs(90)), "1m30s");
    check("0", None, "0s");
    check("-1h", None, "-1h0m0s");
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(nanos: i64) {
        let duration = SignedDuration::from_nanos(nanos);
        prop_assert_eq!(parse(&format(duration)), Ok(duration));
    }

    #[test]
    fn no_text_panics(text in "\\PC*", near in "[-+]?([0-9]{0,22}(\\.[0-9]{0,22})?(ns|us|ms|s|m|h|d|\u{b5}s)?){0,4}") {
        for text in [text, near] {
            if let Ok(duration) = parse(&text) {
                prop_assert_eq!(parse(&format(duration)), Ok(duration));
            }
        }
    }
}
