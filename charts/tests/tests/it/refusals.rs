//! Values that helm refuses, and what it says.

use anyhow::{Result, bail, ensure};
use dapr_charts::Helm;

use crate::rendering::NAMESPACE;

#[test]
fn values_that_cannot_apply_are_refused_with_a_reason() -> Result<()> {
    let Some(helm) = Helm::find("refusals of the chart")? else {
        return Ok(());
    };
    let refused = |flag: &str, set: &str, expected: &[&str]| -> Result<()> {
        match helm.template(NAMESPACE, &[flag, set])? {
            Ok(_) => bail!("{set} is taken"),
            Err(failed) => {
                for words in expected {
                    ensure!(failed.message.contains(words), "{set}: {}", failed.message);
                }
            }
        }
        Ok(())
    };
    let check = |set: &str, expected: &[&str]| refused("--set", set, expected);
    // Numbers with a fraction are texts to `--set`, and digits are no text.
    let check_json = |set: &str, expected: &[&str]| refused("--set-json", set, expected);
    // Of the wrong type.
    check(
        "global.ha.enabled=yes",
        &["/global/ha/enabled", "got string, want boolean"],
    )?;
    check(
        "global.scheduler.enabled=yes",
        &["/global/scheduler/enabled", "got string, want boolean"],
    )?;
    // Who writes it means the opposite of what the original does.
    refused(
        "--set-string",
        "dapr_sidecar_injector.hostNetwork=false",
        &[
            "/dapr_sidecar_injector/hostNetwork",
            "in quotes is true to the original",
        ],
    )?;
    check(
        "dapr_operator.replicaCount=many",
        &[
            "/dapr_operator/replicaCount",
            "'many' does not match pattern",
        ],
    )?;
    check(
        "dapr_operator.replicaCount=true",
        &[
            "/dapr_operator/replicaCount",
            "got boolean, want integer or string",
        ],
    )?;
    // A number is not the text that was written: another image would be installed.
    check(
        "global.tag=20240101",
        &["/global/tag", "only a text, in quotes"],
    )?;
    check_json(
        "global.tag=1.20",
        &["/global/tag", "only a text, in quotes"],
    )?;
    check(
        "global.prometheus.port=0",
        &["/global/prometheus/port", "minimum: got 0, want 1"],
    )?;
    check(
        "global.mtls.workloadCertTTL=1day",
        &["/global/mtls/workloadCertTTL", "does not match pattern"],
    )?;
    check(
        "global.mtls.workloadCertTTL=24",
        &[
            "/global/mtls/workloadCertTTL",
            "any other duration has a unit",
        ],
    )?;
    check(
        "dapr_operator.watchInterval=5",
        &["/dapr_operator/watchInterval", "an interval has a unit"],
    )?;
    check(
        "dapr_operator.watchInterval=true",
        &["/dapr_operator/watchInterval", "only 0 or false"],
    )?;
    check_json(
        "global.prometheus.port=\"65536\"",
        &["/global/prometheus/port", "does not match pattern"],
    )?;
    check(
        "global.dnsSuffix=cluster.local",
        &["/global/dnsSuffix", "does not match pattern"],
    )?;
    check(
        "global.mtls.sentryAddress=sentry",
        &["/global/mtls/sentryAddress", "does not match pattern"],
    )?;
    check(
        "global.imagePullPolicy=Sometimes",
        &["/global/imagePullPolicy", "'IfNotPresent'"],
    )?;
    check(
        "dapr_operator.logLevel=trace",
        &["/dapr_operator/logLevel", "'debug'"],
    )?;
    check(
        "global.extraVolumes.sentry.name=x",
        &["/global/extraVolumes/sentry"],
    )?;
    check(
        "global.issuerFilenames.root=x",
        &[
            "/global/issuerFilenames",
            "additional properties 'root' not allowed",
        ],
    )?;
    check(
        "dapr_sidecar_injector.nativeSidecar=maybe",
        &["/dapr_sidecar_injector/nativeSidecar", "'auto'"],
    )?;
    // That nothing here can do.
    for chart in [
        "operator",
        "placement",
        "sentry",
        "scheduler",
        "sidecar_injector",
    ] {
        let place = format!("/dapr_{chart}/debug/enabled");
        check(
            &format!("dapr_{chart}.debug.enabled=true"),
            &[&place, "the images hold no debugger"],
        )?;
    }
    check(
        "global.daprControlPlaneOs=windows",
        &["there are no images for Windows"],
    )?;
    check(
        "global.daprControlPlaneArch=s390x",
        &["only amd64 and arm64"],
    )?;
    check(
        "dapr_placement.ports.apiPort=50006",
        &["sidecars are told no other port"],
    )?;
    check(
        "dapr_operator.ports.targetPort=6501",
        &["the operator is told no other port"],
    )?;
    check("dapr_sentry.mode=standalone", &["only kubernetes"])?;
    check(
        "dapr_config.dapr_default_system_config_name=mine",
        &["only daprsystem"],
    )?;
    check(
        "global.actors.serviceName=mine",
        &["/global/actors/serviceName", "'placement'"],
    )?;
    check(
        "global.ha.podAntiAffinityPolicy=never",
        &["/global/ha/podAntiAffinityPolicy"],
    )?;
    // That contradict each other.
    check(
        "global.ha.enabled=true,global.ha.disruption.minimumAvailable=1",
        &["global.ha.disruption", "set the other one to \"\""],
    )?;
    check(
        "dapr_sentry.tls.root.certPEM=x",
        &["dapr_sentry.tls.issuer.certPEM is missing"],
    )?;
    check(
        "dapr_sidecar_injector.sidecarRunAsUser=0",
        &["sidecarRunAsUser: 0 is no user"],
    )?;
    check(
        "dapr_sidecar_injector.sidecarRunAsUser=5,dapr_sidecar_injector.sidecarRunAsNonRoot=false",
        &["sidecarRunAsUser: 5 is not root"],
    )?;
    Ok(())
}

#[test]
fn an_api_server_without_policies_is_told_of() -> Result<()> {
    let Some(helm) = Helm::find("an old API server")? else {
        return Ok(());
    };
    let old = [
        "template",
        "dapr",
        dapr_charts::CHART,
        "--kube-version",
        "1.20.0",
    ];
    let Err(failed) = helm.run(old)? else {
        bail!("an API server of 1.20 is taken");
    };
    ensure!(
        failed.message.contains("requires kubeVersion: >=1.25"),
        "{}",
        failed.message
    );
    Ok(())
}
