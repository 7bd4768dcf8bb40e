//! One log line in either format; pure.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use jiff::Timestamp;
use jiff::tz::TimeZone;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
}

/// A key and its value.
pub(super) type Pair<'a> = (Cow<'a, str>, Value<'a>);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Text(Cow<'a, str>),
    /// A number or boolean, which JSON leaves without quotes.
    Bare(String),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.into())
    }
}

/// What a line says. Of two pairs with one key the later one counts.
pub(super) struct Line<'a> {
    pub(super) time: Timestamp,
    pub(super) level: &'a str,
    pub(super) message: &'a str,
    pub(super) pairs: Vec<Pair<'a>>,
}

/// Appends the line and a newline.
pub(super) fn write(
    out: &mut String,
    format: Format,
    zone: &TimeZone,
    line: Line<'_>,
) -> fmt::Result {
    let Line {
        time,
        level,
        message,
        mut pairs,
    } = line;
    let time = rfc3339(time, zone);
    match format {
        Format::Text => {
            sort(&mut pairs);
            write!(out, "time=\"{time}\" level={level}")?;
            if !message.is_empty() {
                out.push_str(" msg=");
                push_text(out, message);
            }
            for (key, value) in &pairs {
                write!(out, " {key}=")?;
                match value {
                    Value::Text(text) => push_text(out, text),
                    Value::Bare(text) => push_text(out, text),
                }
            }
            out.push('\n');
        }
        Format::Json => {
            pairs.push(("time".into(), Value::Text(time.into())));
            pairs.push(("level".into(), level.into()));
            pairs.push(("msg".into(), message.into()));
            sort(&mut pairs);
            let mut separator = '{';
            for (key, value) in &pairs {
                out.push(separator);
                push_json(out, key);
                out.push(':');
                match value {
                    Value::Text(text) => push_json(out, text),
                    Value::Bare(text) => out.push_str(text),
                }
                separator = ',';
            }
            out.push_str("}\n");
        }
    }
    Ok(())
}

fn sort(pairs: &mut Vec<Pair<'_>>) {
    // The sort is stable, so of equal keys the one pushed last stays last.
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    pairs.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
}

/// RFC 3339 with up to nine decimals and no trailing zeros, `Z` for UTC, as Go prints it.
fn rfc3339(time: Timestamp, zone: &TimeZone) -> String {
    let offset = zone.to_offset(time);
    let local = offset.to_datetime(time);
    let mut text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        local.year(),
        local.month(),
        local.day(),
        local.hour(),
        local.minute(),
        local.second()
    );
    if local.subsec_nanosecond() != 0 {
        let fraction = format!("{:09}", local.subsec_nanosecond());
        text.push('.');
        text.push_str(fraction.trim_end_matches('0'));
    }
    match offset.seconds() {
        0 => text.push('Z'),
        seconds => {
            let sign = if seconds < 0 { '-' } else { '+' };
            let minutes = seconds.unsigned_abs() / 60;
            write!(text, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
                .expect("writing to a string cannot fail");
        }
    }
    text
}

/// A text value, quoted when it holds anything but letters, digits and `-._/@^+`.
fn push_text(out: &mut String, text: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if text.chars().all(plain) {
        out.push_str(text);
    } else {
        push_go_quoted(out, text);
    }
}

/// Go's `%q`.
fn push_go_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if is_printable(c) => out.push(c),
            c => push_escape(out, c),
        }
    }
    out.push('"');
}

/// Whether Go prints the character as it is: no control or format character and of the blanks only the plain one.
fn is_printable(c: char) -> bool {
    let format = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0001}'..='\u{e007f}');
    c == ' ' || !(c.is_control() || c.is_whitespace() || format)
}

fn push_escape(out: &mut String, c: char) {
    let code = u32::from(c);
    let written = match code {
        0..=0x1f | 0x7f => write!(out, "\\x{code:02x}"),
        0x80..=0xffff => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
    written.expect("writing to a string cannot fail");
}

/// A JSON string as Go's encoder writes it: safe inside HTML and JavaScript.
fn push_json(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a string cannot fail");
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use jiff::tz::{Offset, TimeZone};
    use proptest::prelude::*;

    use super::*;

    fn line<'a>(message: &'a str, pairs: &[(&'a str, &'a str)]) -> Line<'a> {
        Line {
            time: "2026-11-20T19:30:03.120500Z".parse().expect("a time"),
            level: "info",
            message,
            pairs: pairs
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
        }
    }

    fn written(format: Format, line: Line<'_>) -> String {
        let mut out = String::new();
        write(&mut out, format, &TimeZone::UTC, line).expect("a string");
        out
    }

    #[test]
    fn text_lines() {
        let pairs = [
            ("ver", "1.18.3"),
            ("scope", "dapr.runtime"),
            ("component", "s (state.in-memory/v1)"),
            ("app_id", ""),
        ];
        assert_eq!(
            written(Format::Text, line("two \"words\"\n", &pairs)),
            "time=\"2026-11-20T19:30:03.1205Z\" level=info msg=\"two \\\"words\\\"\\n\" app_id= \
             component=\"s (state.in-memory/v1)\" scope=dapr.runtime ver=1.18.3\n"
        );
        assert_eq!(
            written(Format::Text, line("", &[])),
            "time=\"2026-11-20T19:30:03.1205Z\" level=info\n"
        );
        assert_eq!(
            written(
                Format::Text,
                line(
                    "word",
                    &[("k", "\u{1}\u{e9}\u{85}\u{7f}\u{a0}\u{200b}\u{e0001}")]
                )
            ),
            "time=\"2026-11-20T19:30:03.1205Z\" level=info msg=word k=\"\\x01\u{e9}\\u0085\\x7f\\u00a0\\u200b\\U000e0001\"\n"
        );
    }

    #[test]
    fn json_lines() {
        let mut sample = line(
            "a <b> & \"c\"\u{2028}\t\u{1}",
            &[("scope", "s"), ("code", "x"), ("code", "y")],
        );
        sample
            .pairs
            .push(("duration".into(), Value::Bare("5".to_owned())));
        assert_eq!(
            written(Format::Json, sample),
            "{\"code\":\"y\",\"duration\":5,\"level\":\"info\",\"msg\":\"a \\u003cb\\u003e \\u0026 \\\"c\\\"\\u2028\\t\\u0001\",\
             \"scope\":\"s\",\"time\":\"2026-11-20T19:30:03.1205Z\"}\n"
        );
    }

    #[test]
    fn times_are_local_and_without_trailing_zeros() {
        #[track_caller]
        fn check(time: &str, offset_seconds: i32, expected: &str) {
            let zone = TimeZone::fixed(Offset::from_seconds(offset_seconds).expect("in range"));
            assert_eq!(rfc3339(time.parse().expect("a time"), &zone), expected);
        }
        check("2026-01-02T03:04:05Z", 0, "2026-01-02T03:04:05Z");
        check(
            "2026-01-02T03:04:05.000000001Z",
            0,
            "2026-01-02T03:04:05.000000001Z",
        );
        check(
            "2026-01-02T03:04:05.5Z",
            5 * 3600 + 1800,
            "2026-01-02T08:34:05.5+05:30",
        );
        check(
            "2026-01-02T03:04:05Z",
            -8 * 3600,
            "2026-01-01T19:04:05-08:00",
        );
    }

    proptest! {
        #[test]
        fn a_line_stays_one_line(message: String, key in "[a-z_.]{1,8}", value: String) {
            for format in [Format::Text, Format::Json] {
                let out = written(format, line(&message, &[(&key, &value)]));
                prop_assert_eq!(out.matches('\n').count(), 1);
                prop_assert!(out.ends_with('\n'));
            }
        }
    }
}
