//! The Prometheus text exposition, byte for byte as Go's client writes it.
//!
//! The crate's own encoder prints numbers the Rust way; `le` values are part of a series' identity, so dashboards
//! and recording rules made for upstream need Go's spelling (`1.048576e+06`).

use std::fmt::Write as _;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// The content type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Writes gathered families, which a registry returns in alphabetical order of their names.
pub fn encode(families: &[MetricFamily]) -> String {
    let mut text = String::with_capacity(4096);
    for family in families {
        write_family(&mut text, family).expect("writing to a string cannot fail");
    }
    text
}

fn write_family(text: &mut String, family: &MetricFamily) -> std::fmt::Result {
    let name = family.name();
    let kind = family.get_field_type();
    let kind_name = match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
        MetricType::HISTOGRAM => "histogram",
    };
    writeln!(text, "# HELP {name} {}", escaped(family.help(), false))?;
    writeln!(text, "# TYPE {name} {kind_name}")?;
    for metric in family.get_metric() {
        match kind {
            MetricType::COUNTER => {
                sample(text, name, metric, None, metric.get_counter().get_value())?
            }
            MetricType::GAUGE => sample(text, name, metric, None, metric.get_gauge().get_value())?,
            MetricType::HISTOGRAM => histogram(text, name, metric)?,
            MetricType::SUMMARY => summary(text, name, metric)?,
            // The crate can neither make nor read an untyped metric.
            MetricType::UNTYPED => {}
        }
    }
    Ok(())
}

fn histogram(text: &mut String, name: &str, metric: &Metric) -> std::fmt::Result {
    let histogram = metric.get_histogram();
    let bucket_name = format!("{name}_bucket");
    let finite = histogram
        .get_bucket()
        .iter()
        .filter(|bucket| bucket.upper_bound().is_finite());
    for bucket in finite {
        let bound = number(bucket.upper_bound());
        sample(
            text,
            &bucket_name,
            metric,
            Some(("le", &bound)),
            bucket.cumulative_count() as f64,
        )?;
    }
    let count = histogram.get_sample_count() as f64;
    sample(text, &bucket_name, metric, Some(("le", "+Inf")), count)?;
    sample(
        text,
        &format!("{name}_sum"),
        metric,
        None,
        histogram.get_sample_sum(),
    )?;
    sample(text, &format!("{name}_count"), metric, None, count)
}

fn summary(text: &mut String, name: &str, metric: &Metric) -> std::fmt::Result {
    let summary = metric.get_summary();
    for quantile in summary.get_quantile() {
        sample(
            text,
            name,
            metric,
            Some(("quantile", &number(quantile.quantile()))),
            quantile.value(),
        )?;
    }
    sample(
        text,
        &format!("{name}_sum"),
        metric,
        None,
        summary.sample_sum(),
    )?;
    sample(
        text,
        &format!("{name}_count"),
        metric,
        None,
        summary.sample_count() as f64,
    )
}

fn sample(
    text: &mut String,
    name: &str,
    metric: &Metric,
    last_label: Option<(&str, &str)>,
    value: f64,
) -> std::fmt::Result {
    text.push_str(name);
    let own = metric
        .get_label()
        .iter()
        .map(|pair: &LabelPair| (pair.name(), pair.value()));
    let mut separator = '{';
    for (label, value) in own.chain(last_label) {
        write!(text, "{separator}{label}=\"{}\"", escaped(value, true))?;
        separator = ',';
    }
    if separator == ',' {
        text.push('}');
    }
    writeln!(text, " {}", number(value))
}

/// Backslash and newline are escaped everywhere, quotes only inside a label.
fn escaped(text: &str, in_label: bool) -> std::borrow::Cow<'_, str> {
    let special = |c: char| c == '\\' || c == '\n' || (in_label && c == '"');
    if !text.contains(special) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => escaped.push_str("\\n"),
            c if special(c) => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped.into()
}

/// A float as Go's shortest `%g` prints it: with an exponent of at least two digits below -4 and from 6 on.
fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry};

    use super::{encode, number};

    #[track_caller]
    fn check(value: f64, expected: &str) {
        assert_eq!(number(value), expected);
    }

    #[test]
    fn numbers_are_spelled_as_go_does() {
        check(0.0, "0");
        check(-0.0, "0");
        check(1.0, "1");
        check(-1.5, "-1.5");
        check(0.25, "0.25");
        check(0.0001, "0.0001");
        check(0.00001, "1e-05");
        check(65536.0, "65536");
        check(100_000.0, "100000");
        check(999_999.5, "999999.5");
        check(1_000_000.0, "1e+06");
        check(1_048_576.0, "1.048576e+06");
        check(4_294_967_296.0, "4.294967296e+09");
        check(1.5e300, "1.5e+300");
        check(f64::INFINITY, "+Inf");
        check(f64::NEG_INFINITY, "-Inf");
        check(f64::NAN, "NaN");
    }

    #[test]
    fn families_and_labels_are_in_order_and_le_is_last() {
        let registry = Registry::new();
        let counter = CounterVec::new(
            Opts::new("dapr_b", "Line one\nand \\ two."),
            &["zone", "app_id"],
        )
        .expect("valid");
        counter
            .with_label_values(&["z", "say \"hi\"\n\\"])
            .inc_by(2.0);
        counter.with_label_values(&["", "a"]).inc();
        let histogram = HistogramVec::new(
            HistogramOpts::new("dapr_a", "Sizes.").buckets(vec![1024.0, 1_048_576.0]),
            &["method", "app_id"],
        )
        .expect("valid");
        histogram.with_label_values(&["GET", "a"]).observe(2000.5);
        let silent = GaugeVec::new(Opts::new("dapr_silent", "Never set."), &["x"]).expect("valid");
        registry.register(Box::new(counter)).expect("registers");
        registry.register(Box::new(histogram)).expect("registers");
        registry.register(Box::new(silent)).expect("registers");

        let expected = r#"# HELP dapr_a Sizes.
# TYPE dapr_a histogram
dapr_a_bucket{app_id="a",method="GET",le="1024"} 0
dapr_a_bucket{app_id="a",method="GET",le="1.048576e+06"} 1
dapr_a_bucket{app_id="a",method="GET",le="+Inf"} 1
dapr_a_sum{app_id="a",method="GET"} 2000.5
dapr_a_count{app_id="a",method="GET"} 1
# HELP dapr_b Line one\nand \\ two.
# TYPE dapr_b counter
dapr_b{app_id="a",zone=""} 1
dapr_b{app_id="say \"hi\"\n\\",zone="z"} 2
"#;
        assert_eq!(encode(&registry.gather()), expected);
    }
}
