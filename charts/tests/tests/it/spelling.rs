//! Values that are written otherwise than in the chart and mean the same.

use anyhow::{Result, ensure};
use dapr_charts::{Difference, Helm, documents};
use serde_json::Value;

use crate::rendering::{NAMESPACE, rendered};
use crate::variants::{self, Variant};

fn render(helm: &Helm, values: &str) -> Result<Vec<Value>> {
    let name = "spelling";
    let values = values.to_owned();
    documents(&rendered(helm, NAMESPACE, &Variant { name, values })?)
}

/// Two values files, and one rendering.
fn check(helm: &Helm, one: &str, other: &str) -> Result<()> {
    let difference = Difference::between(&render(helm, one)?, &render(helm, other)?);
    ensure!(
        difference == Difference::default(),
        "{other}: {difference:#?}"
    );
    Ok(())
}

#[test]
fn numbers_may_be_in_quotes() -> Result<()> {
    let Some(helm) = Helm::find("numbers of the chart in quotes")? else {
        return Ok(());
    };
    check(
        &helm,
        "global: {ha: {enabled: true}, scheduler: {enabled: true}}
dapr_sentry: {oidc: {enabled: true}}",
        "global: {prometheus: {port: '9090'}, ha: {enabled: true, replicaCount: '3'}, scheduler: {enabled: true}}
dapr_operator: {maxPodRestartsPerMinute: '20', ports: {port: '443', targetPort: '6500'}}
dapr_sentry: {oidc: {enabled: true, server: {port: '9080'}}, ports: {port: '443', targetPort: '50001'}}
dapr_placement:
  ports: {apiPort: '50005', raftRPCPort: '8201'}
  replicationFactor: '100'
  maxActorApiLevel: '10'
  minActorApiLevel: '0'
  fsGroup: '65532'
dapr_scheduler:
  ports: {etcdGRPCClientPort: '2379', etcdGRPCPeerPort: '2380'}
  workers: '2048'
  etcdSnapshotCount: '100000'
  etcdMaxSnapshots: '10'
  etcdMaxWals: '10'
  etcdBackendBatchLimit: '10000'
  etcdMaxTxnOps: '10000'
  etcdDefragThresholdMB: '100'
  securityContext: {fsGroup: '65532'}
dapr_sidecar_injector:
  healthzPort: '8080'
  livenessProbe: {initialDelaySeconds: '180', periodSeconds: '10', failureThreshold: '5'}
  readinessProbe: {initialDelaySeconds: '0', periodSeconds: '1', failureThreshold: '3'}",
    )?;
    check(
        &helm,
        "dapr_operator: {replicaCount: 2}
dapr_sidecar_injector: {sidecarRunAsUser: 1000, sidecarRunAsGroup: 3000}",
        "dapr_operator: {replicaCount: '2'}
dapr_sidecar_injector: {sidecarRunAsUser: '1000', sidecarRunAsGroup: '3000'}",
    )
}

/// Where the original writes the value as it stands, or takes any text for true.
#[test]
fn booleans_may_be_in_quotes() -> Result<()> {
    let Some(helm) = Helm::find("booleans of the chart in quotes")? else {
        return Ok(());
    };
    let both = |values: &str| {
        let plain = values.replace("B", "true");
        check(&helm, &plain, &values.replace("B", "'true'"))
    };
    both(
        "global: {mtls: {mountSentryVolume: B}, scheduler: {enabled: true}, argoRolloutServiceReconciler: {enabled: B}, operator: {watchdogCanPatchPodLabels: B}}
dapr_operator: {serviceReconciler: {enabled: B}}
dapr_sentry: {jwt: {enabled: B}, oidc: {enabled: B, tls: {enabled: B}}}
dapr_scheduler: {cluster: {inMemoryStorage: B}}
dapr_sidecar_injector: {hostNetwork: B}
dapr_rbac: {secretReader: {enabled: B}}
dapr_config: {dapr_config_chart_included: B}",
    )?;
    for value in ["true", "false"] {
        let values = |it: &str| {
            format!(
                "global: {{mtls: {{enabled: {it}}}, scheduler: {{enabled: true}}}}
dapr_operator: {{runAsNonRoot: {it}}}
dapr_placement: {{runAsNonRoot: {it}}}
dapr_sentry: {{runAsNonRoot: {it}}}
dapr_scheduler: {{etcdEmbed: {it}, securityContext: {{runAsNonRoot: {it}}}}}
dapr_sidecar_injector: {{sidecarReadOnlyRootFilesystem: {it}, sidecarDropALLCapabilities: {it}, enableK8sDownwardAPIs: {it}, nativeSidecar: {it}}}"
            )
        };
        check(&helm, &values(value), &values(&format!("'{value}'")))?;
    }
    Ok(())
}

#[test]
fn lists_may_be_joined_already() -> Result<()> {
    let Some(helm) = Helm::find("lists of the chart with commas")? else {
        return Ok(());
    };
    check(
        &helm,
        "global: {scheduler: {enabled: true}}
dapr_sentry: {oidc: {enabled: true, allowedHosts: [a.example, b.example]}}
dapr_scheduler: {etcdEmbed: false, etcdClientEndpoints: ['https://one:2379', 'https://two:2379']}",
        "global: {scheduler: {enabled: true}}
dapr_sentry: {oidc: {enabled: true, allowedHosts: 'a.example,b.example'}}
dapr_scheduler: {etcdEmbed: false, etcdClientEndpoints: 'https://one:2379,https://two:2379'}",
    )
}

#[test]
fn none_has_several_spellings() -> Result<()> {
    let Some(helm) = Helm::find("values of the chart that are none")? else {
        return Ok(());
    };
    // YAML makes booleans of most of them.
    for off in ["off", "no", "false", "False", "0", "'0'"] {
        let values = format!("dapr_operator: {{watchInterval: {off}}}");
        check(&helm, "", &values)?;
    }
    let budget = |disruption: &str| {
        format!("global: {{ha: {{enabled: true, disruption: {{{disruption}}}}}}}")
    };
    for none in ["0", "''", "null"] {
        let values = budget(&format!("minimumAvailable: {none}"));
        check(&helm, &budget(""), &values)?;
    }
    check(
        &helm,
        &budget("minimumAvailable: 2, maximumUnavailable: ''"),
        &budget("minimumAvailable: 2, maximumUnavailable: 0"),
    )?;
    check(
        &helm,
        "dapr_sidecar_injector: {sidecarRunAsNonRoot: false}",
        "dapr_sidecar_injector: {sidecarRunAsNonRoot: false, sidecarRunAsUser: 0, sidecarRunAsGroup: 0}",
    )?;
    check(
        &helm,
        "global: {ha: {enabled: true}}",
        "global: {ha: {enabled: true}}
dapr_sidecar_injector: {namespaceSelector: null, objectSelector: null}",
    )?;
    for none in [
        "global: {tolerations: {}, nodeSelector: [], labels: [], issuerFilenames: [], extraVolumes: []}",
        "dapr_operator: {deploymentAnnotations: [], extraEnvVars: []}",
        "dapr_sidecar_injector: {namespaceSelector: [], objectSelector: [], sidecarRunAsGroup: ''}",
        "dapr_placement: {ha: null, scaleZero: null}",
        "global: {mtls: null, scheduler: null}",
    ] {
        check(&helm, "", none)?;
    }
    check(
        &helm,
        "dapr_placement: {fsGroup: null}",
        "dapr_placement: {fsGroup: ''}",
    )?;
    check(
        &helm,
        "dapr_operator: {deploymentAnnotations: {mesh: ''}, extraEnvVars: {PROXY: ''}}",
        "dapr_operator: {deploymentAnnotations: {mesh: null}, extraEnvVars: {PROXY: null}}",
    )?;
    // The API server has defaults of its own for these.
    render(
        &helm,
        "dapr_operator: {livenessProbe: {periodSeconds: 0, failureThreshold: 0}}",
    )?;
    // `helm upgrade --reuse-values` brings the values of a chart that did not have this one yet.
    check(
        &helm,
        "",
        "global: {k8sLabels: {app.kubernetes.io/component: null}}",
    )
}

#[test]
fn words_may_be_in_any_case() -> Result<()> {
    let Some(helm) = Helm::find("words of the chart in any case")? else {
        return Ok(());
    };
    for word in ["OFF", "No", "F", "fAlse", "ONCE", "Once"] {
        render(
            &helm,
            &format!("dapr_operator: {{watchInterval: '{word}'}}"),
        )?;
    }
    for chart in [
        "operator",
        "placement",
        "scheduler",
        "sentry",
        "sidecar_injector",
    ] {
        for level in ["Debug", "INFO", "wArn", "Error", "FATAL"] {
            render(&helm, &format!("dapr_{chart}: {{logLevel: {level}}}"))?;
        }
    }
    Ok(())
}

/// The API server takes nothing else.
#[test]
fn labels_and_annotations_are_texts() -> Result<()> {
    let Some(helm) = Helm::find("labels and annotations of the chart")? else {
        return Ok(());
    };
    for variant in variants::all() {
        for document in documents(&rendered(&helm, NAMESPACE, &variant)?)? {
            let metadata = ["/metadata", "/spec/template/metadata"];
            let metadata = metadata.iter().filter_map(|it| document.pointer(it));
            let maps = metadata.flat_map(|it| [it.get("labels"), it.get("annotations")]);
            let maps = maps.flatten().filter_map(Value::as_object);
            for (key, value) in maps.flatten() {
                ensure!(value.is_string(), "{}: {key}: {value}", variant.name);
            }
        }
    }
    Ok(())
}
