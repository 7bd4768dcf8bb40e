//! Building families: names, constant labels, buckets.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
};

const LATENCY: [f64; 34] = [
    1., 2., 3., 4., 5., 6., 8., 10., 13., 16., 20., 25., 30., 40., 50., 65., 80., 100., 130., 160.,
    200., 250., 300., 400., 500., 650., 800., 1000., 2000., 5000., 10000., 20000., 50000., 100000.,
];

const SIZE: [f64; 13] = [
    1024.,
    2048.,
    4096.,
    16384.,
    65536.,
    262144.,
    1048576.,
    4194304.,
    16777216.,
    67108864.,
    268435456.,
    1073741824.,
    4294967296.,
];

/// Upper bounds of latency buckets.
#[derive(Debug, Clone)]
pub(super) struct Latency(Vec<f64>);

impl Latency {
    pub(super) fn new(bounds: &[f64]) -> Self {
        if bounds.is_empty() {
            return Self(LATENCY.to_vec());
        }
        let mut bounds = bounds.to_vec();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        Self(bounds)
    }
}

/// Registers families with the same constant labels.
pub(super) struct Builder<'a> {
    registry: &'a Registry,
    latency: Latency,
    labels: Vec<(String, String)>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(registry: &'a Registry, latency: Latency, labels: &[(&str, &str)]) -> Self {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self {
            registry,
            latency,
            labels: labels.collect(),
        }
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        let opts = Opts::new(format!("dapr_{name}"), help);
        opts.const_labels(self.labels.iter().cloned().collect())
    }

    pub(super) fn counter(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        let family = IntCounterVec::new(self.opts(name, help), labels)?;
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }

    pub(super) fn gauge(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntGaugeVec> {
        let family = IntGaugeVec::new(self.opts(name, help), labels)?;
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }

    pub(super) fn latency(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        self.histogram(name, help, labels, self.latency.0.clone())
    }

    pub(super) fn size(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        self.histogram(name, help, labels, SIZE.to_vec())
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> prometheus::Result<HistogramVec> {
        let opts = HistogramOpts::from(self.opts(name, help)).buckets(buckets);
        let family = HistogramVec::new(opts, labels)?;
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }
}

/// Measures in whole milliseconds with a handle that is already there.
pub(super) fn observe(histogram: &Histogram, elapsed: Duration) {
    histogram.observe(elapsed.as_millis() as f64);
}

/// Measures in whole milliseconds.
pub(super) fn observe_with(family: &HistogramVec, labels: &[&str], elapsed: Duration) {
    observe(&family.with_label_values(labels), elapsed);
}

/// Measures what took at least a millisecond, as upstream does for components; the series comes into being only with a
/// value to show.
pub(super) fn observe_long_with(family: &HistogramVec, labels: &[&str], elapsed: Duration) {
    if elapsed.as_millis() > 0 {
        observe_with(family, labels, elapsed);
    }
}
