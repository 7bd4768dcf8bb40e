//! The settings of the APIs, from flags and Configuration.

use anyhow::bail;
use dapr_crds::configuration::{ApiRule as Rule, ConfigurationSpec, TracingSpec};
use dapr_sidecar_api::metrics::{MetricsSettings, PathMatching};
use dapr_sidecar_api::settings::{
    ApiLogging, ApiRule, ApiRules, Cors, Settings as ApiSettings, Tracing,
};

use crate::settings::Settings;

/// Added to the read buffer: request line and what HTTP itself needs.
const HEADER_ALLOWANCE: usize = 4096;
/// Sampling rate when the text is empty or no number.
const DEFAULT_RATE: f64 = 0.0001;

/// The settings of the APIs.
pub(super) fn api(settings: &Settings, configuration: &ConfigurationSpec) -> ApiSettings {
    let logging = configuration
        .logging
        .as_ref()
        .and_then(|logging| logging.api_logging.as_ref());
    let is_logging = settings
        .api_logging
        .or(logging.and_then(|logging| logging.enabled))
        .unwrap_or(false);
    let rules = configuration
        .api
        .as_ref()
        .map(|api| ApiRules::new(&rules(&api.allowed), &rules(&api.denied)));
    for field in configuration.tracing.iter().flat_map(exporters) {
        tracing::warn!(
            target: "dapr.runtime",
            "spec.tracing.{field} of the Configuration has no effect: this build passes trace context on but exports no spans yet"
        );
    }
    ApiSettings {
        api_token: settings.api_token.clone(),
        max_body_size: settings.max_body_size.unwrap_or(0),
        max_header_bytes: settings.read_buffer_size + HEADER_ALLOWANCE,
        h2c: settings.listen.h2c,
        cors: Cors::parse(&settings.listen.allowed_origins),
        api_logging: is_logging.then(|| ApiLogging {
            obfuscate_urls: logging.is_some_and(|logging| logging.obfuscate_urls),
            omit_health_checks: logging.is_some_and(|logging| logging.omit_health_checks),
        }),
        rules: rules.unwrap_or_default(),
        tracing: tracing(configuration.tracing.as_ref()),
    }
}

/// Names what has no effect yet, and fails on what upstream fails the start for.
pub(super) fn check(configuration: &ConfigurationSpec) -> anyhow::Result<()> {
    let pipelines = [
        ("httpPipeline", &configuration.http_pipeline),
        ("appHttpPipeline", &configuration.app_http_pipeline),
    ];
    for (field, pipeline) in pipelines {
        let handlers = pipeline.as_ref().map_or(0, |it| it.handlers.len());
        if handlers > 0 {
            tracing::warn!(
                target: "dapr.runtime",
                "spec.{field} of the Configuration has no effect: middleware is not in this build yet, requests pass without it"
            );
        }
    }
    let otel = configuration
        .tracing
        .as_ref()
        .and_then(|it| it.otel.as_ref());
    match otel.filter(|otel| !otel.endpoint_address.is_empty()) {
        Some(otel) if !matches!(otel.protocol.as_str(), "http" | "grpc") => {
            bail!(
                "invalid protocol {} provided for Otel endpoint",
                otel.protocol
            )
        }
        _ => Ok(()),
    }
}

/// Exporters of spans that are asked for.
fn exporters(spec: &TracingSpec) -> impl Iterator<Item = &'static str> {
    let otel = spec
        .otel
        .as_ref()
        .is_some_and(|otel| !otel.endpoint_address.is_empty());
    let zipkin = spec
        .zipkin
        .as_ref()
        .is_some_and(|zipkin| !zipkin.endpoint_address.is_empty());
    [(otel, "otel"), (zipkin, "zipkin"), (spec.stdout, "stdout")]
        .into_iter()
        .filter_map(|(is_set, field)| is_set.then_some(field))
}

/// What is done about trace context.
pub(super) fn tracing(spec: Option<&TracingSpec>) -> Tracing {
    let Some(spec) = spec else {
        return Tracing::PassThrough;
    };
    if spec.sampling_rate.is_empty() && exporters(spec).next().is_none() {
        return Tracing::PassThrough;
    }
    match spec.sampling_rate.parse::<f64>().unwrap_or(DEFAULT_RATE) {
        rate if rate <= 0.0 => Tracing::Off,
        rate => Tracing::On {
            rate: rate.min(1.0),
        },
    }
}

fn rules(rules: &[Rule]) -> Vec<ApiRule> {
    rules
        .iter()
        .map(|rule| ApiRule {
            name: rule.name.clone(),
            version: rule.version.clone(),
            protocol: rule.protocol.clone(),
        })
        .collect()
}

/// The settings of the metrics; `None` when the Configuration switches them off.
pub(super) fn metrics(configuration: &ConfigurationSpec) -> Option<MetricsSettings> {
    let metric = configuration.effective_metric();
    if !metric.is_enabled() {
        return None;
    }
    if !metric.rules.is_empty() {
        tracing::warn!(
            target: "dapr.runtime",
            "spec.metric.rules of the Configuration have no effect: label rewriting is not in this build yet"
        );
    }
    let http = metric.http.clone().unwrap_or_default();
    let buckets = metric
        .latency_distribution_buckets
        .clone()
        .unwrap_or_default();
    Some(MetricsSettings {
        latency_buckets: buckets.iter().map(|bucket| *bucket as f64).collect(),
        paths: PathMatching::new(http.has_increased_cardinality(), &http.path_matching),
        exclude_verbs: http.exclude_verbs.unwrap_or(false),
        record_error_codes: metric.record_error_codes.unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(yaml: &str) -> ConfigurationSpec {
        let text = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: c}}\nspec: {yaml}\n"
        );
        let source = dapr_crds::standalone::Source {
            file: "c.yaml",
            text: &text,
        };
        dapr_crds::standalone::load([source], |_| None)
            .expect("loads")
            .configuration
            .spec
    }

    #[test]
    fn tracing_follows_rate_and_exporters() {
        let check = |yaml: &str, expected: Tracing| {
            assert_eq!(tracing(spec(yaml).tracing.as_ref()), expected, "{yaml}");
        };
        check("{}", Tracing::PassThrough);
        check("{tracing: {samplingRate: '1'}}", Tracing::On { rate: 1.0 });
        check("{tracing: {samplingRate: '0'}}", Tracing::Off);
        check(
            "{tracing: {samplingRate: x}}",
            Tracing::On { rate: DEFAULT_RATE },
        );
        check(
            "{tracing: {stdout: true}}",
            Tracing::On { rate: DEFAULT_RATE },
        );
    }

    #[test]
    fn an_exporter_needs_a_protocol_that_exists() {
        let check = |otel: &str, expected: Option<&str>| {
            let spec = spec(&format!("{{tracing: {{otel: {{{otel}}}}}}}"));
            let error = super::check(&spec).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), expected, "{otel}");
        };
        check("endpointAddress: 'h:1', protocol: http", None);
        check("endpointAddress: 'h:1', protocol: grpc", None);
        check("protocol: foo", None);
        check(
            "endpointAddress: 'h:1', protocol: foo",
            Some("invalid protocol foo provided for Otel endpoint"),
        );
    }

    #[test]
    fn metrics_can_be_switched_off() {
        assert!(metrics(&spec("{}")).is_some());
        assert!(metrics(&spec("{metric: {enabled: false}}")).is_none());
    }
}
