use serde_json::{Value, json};

use super::*;
use crate::config::Config;
use crate::settings::Surroundings;

pub(crate) fn settings() -> Settings {
    settings_with(&[])
}

fn settings_with(variables: &[(&str, &str)]) -> Settings {
    let required = [("SIDECAR_IMAGE", "daprd:1"), ("NAMESPACE", "dapr-system")];
    let environment = required.iter().chain(variables).copied().collect();
    let surroundings = Surroundings {
        cluster_domain: "cluster.local".to_owned(),
        scheduler_enabled: true,
        token: Token::Projected,
        mode: Mode::Regular,
    };
    Settings::new(
        &Config::from_environment(&environment).unwrap(),
        &surroundings,
    )
}

pub(crate) fn request() -> Request<'static> {
    Request {
        namespace: "shop",
        trust_anchors: "PEM",
        mtls: true,
        components: Some(&[]),
    }
}

fn pod(annotations: &[(&str, &str)]) -> Pod {
    let annotations: serde_json::Map<String, Value> = annotations
        .iter()
        .map(|(name, value)| (format!("dapr.io/{name}"), json!(value)))
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": "cart", "annotations": annotations},
        "spec": {"containers": [{"name": "app"}], "volumes": [{"name": "data"}]},
    }))
    .unwrap()
}

fn sidecar(annotations: &[(&str, &str)]) -> Value {
    container(&pod(annotations), &settings(), &request())
        .unwrap()
        .unwrap()
}

fn words(container: &Value) -> Vec<&str> {
    let args = container["args"].as_array().unwrap();
    args.iter().map(|word| word.as_str().unwrap()).collect()
}

const PLAIN: &str = "/daprd --dapr-http-port 3500 --dapr-grpc-port 50001 --dapr-internal-grpc-port 50002 \
    --dapr-listen-addresses [::1],127.0.0.1 --dapr-public-port 3501 --app-id cart --app-protocol http \
    --log-level info --dapr-graceful-shutdown-seconds -1 --mode kubernetes \
    --control-plane-address dapr-api.dapr-system.svc.cluster.local:443 \
    --sentry-address dapr-sentry.dapr-system.svc.cluster.local:443 --enable-metrics --metrics-port 9090 \
    --placement-host-address dapr-placement-server.dapr-system.svc.cluster.local:50005 --enable-mtls \
    --scheduler-host-address dapr-scheduler-server-a.dapr-system.svc.cluster.local:443";

/// Everything at once shows the order.
#[test]
fn the_arguments_of_all_annotations_are_in_order() {
    let container = sidecar(&[
        ("app-id", "shop"),
        ("app-port", "3000"),
        ("app-protocol", "grpc"),
        ("app-ssl", "true"),
        ("app-channel-address", "10.0.0.1"),
        ("app-max-concurrency", "7"),
        ("config", "settings"),
        ("log-level", "debug"),
        ("log-as-json", "true"),
        ("enable-api-logging", "false"),
        ("enable-profiling", "true"),
        ("metrics-port", "9091"),
        ("grpc-port", "1"),
        ("internal-grpc-port", "2"),
        ("sidecar-listen-addresses", "0.0.0.0"),
        ("max-body-size", "8Mi"),
        ("http-max-request-size", "8"),
        ("read-buffer-size", "8Ki"),
        ("http-read-buffer-size", "9"),
        ("graceful-shutdown-seconds", "5"),
        ("block-shutdown-duration", "2s"),
        ("unix-domain-socket-path", "/sockets"),
        ("disable-builtin-k8s-secret-store", "true"),
        ("enable-app-health-check", "true"),
        ("app-health-check-path", "/up"),
        ("app-health-probe-interval", "1"),
        ("app-health-probe-timeout", "2"),
        ("app-health-threshold", "3"),
        ("app-binding-options-timeout", "1s"),
        ("placement-host-address", "p:1"),
        ("actors-disseminate-timeout", "4s"),
        ("scheduler-host-address", "s:1"),
        ("sentry-request-jwt-audiences", "a,b"),
        ("disable-init-endpoints", "x"),
    ]);
    let expected = "/daprd --dapr-http-port 3500 --dapr-grpc-port 1 --dapr-internal-grpc-port 2 \
        --dapr-listen-addresses 0.0.0.0 --dapr-public-port 3501 --app-id shop --app-protocol grpc \
        --log-level debug --dapr-graceful-shutdown-seconds 5 --mode kubernetes \
        --control-plane-address dapr-api.dapr-system.svc.cluster.local:443 \
        --sentry-address dapr-sentry.dapr-system.svc.cluster.local:443 --app-port 3000 \
        --enable-metrics --metrics-port 9091 --config settings --app-channel-address 10.0.0.1 \
        --placement-host-address p:1 --sentry-request-jwt-audiences a,b --enable-api-logging=false \
        --disable-builtin-k8s-secret-store --enable-app-health-check --app-health-check-path /up \
        --app-health-probe-interval 1 --app-health-probe-timeout 2 --app-health-threshold 3 \
        --app-binding-options-timeout 1s --log-as-json --enable-profiling --enable-mtls --app-ssl \
        --app-max-concurrency 7 --dapr-http-max-request-size 8 --max-body-size 8Mi \
        --dapr-http-read-buffer-size 9 --read-buffer-size 8Ki \
        --unix-domain-socket /var/run/dapr-sockets --dapr-block-shutdown-duration 2s \
        --actors-disseminate-timeout 4s --scheduler-host-address s:1 --disable-init-endpoints x";
    assert_eq!(words(&container).join(" "), expected);
    assert_eq!(words(&sidecar(&[])).join(" "), PLAIN);
}

/// What one annotation changes in the arguments of a plain pod.
#[track_caller]
fn check_arguments(name: &str, value: &str, old: &str, new: &str) {
    let container = sidecar(&[(name, value)]);
    let expected = PLAIN.replacen(old, new, 1);
    assert_eq!(words(&container).join(" "), expected, "{name} {value:?}");
}

#[test]
fn values_that_are_empty_or_wrong_have_their_own_rules() {
    let same = "";
    let placement =
        "--placement-host-address dapr-placement-server.dapr-system.svc.cluster.local:50005";
    let scheduler =
        "--scheduler-host-address dapr-scheduler-server-a.dapr-system.svc.cluster.local:443";
    for (name, value, old, new) in [
        ("app-port", "0", same, same),
        ("app-port", "-1", same, same),
        ("app-port", "http", same, same),
        (
            "app-port",
            "4294967376",
            "--enable-metrics",
            "--app-port 80 --enable-metrics",
        ),
        ("app-protocol", "", "--app-protocol http", "--app-protocol "),
        ("log-level", "", "--log-level info", "--log-level "),
        ("graceful-shutdown-seconds", "", same, same),
        (
            "enable-metrics",
            "no",
            "--enable-metrics --metrics-port 9090 ",
            "",
        ),
        (
            "enable-metrics",
            "",
            "--enable-metrics --metrics-port 9090 ",
            "",
        ),
        ("config", "", same, same),
        ("app-channel-address", "", same, same),
        (
            "enable-api-logging",
            "",
            "--enable-mtls",
            "--enable-api-logging=false --enable-mtls",
        ),
        (
            "enable-api-logging",
            "y",
            "--enable-mtls",
            "--enable-api-logging=true --enable-mtls",
        ),
        ("placement-host-address", " ", &format!("{placement} "), ""),
        (
            "placement-host-address",
            "\" p:1 \"",
            placement,
            "--placement-host-address p:1",
        ),
        (
            "placement-host-address",
            " \"p:1\" ",
            placement,
            "--placement-host-address \"p:1\"",
        ),
        (
            "scheduler-host-address",
            "",
            scheduler,
            "--scheduler-host-address ",
        ),
        (
            "scheduler-host-address",
            "'s:1'",
            scheduler,
            "--scheduler-host-address s:1",
        ),
        ("app-max-concurrency", "x", same, same),
        ("max-body-size", "", same, same),
        ("read-buffer-size", "", same, same),
        ("unix-domain-socket-path", "", same, same),
        ("sentry-request-jwt-audiences", "", same, same),
        ("log-as-json", "false", same, same),
    ] {
        check_arguments(name, value, old, new);
    }
    let empty = sidecar(&[("disable-init-endpoints", "")]);
    assert!(words(&empty).ends_with(&["--disable-init-endpoints", ""]));
}

#[test]
fn the_control_plane_decides_about_actors_scheduler_and_mtls() {
    let arguments = |variables: &[(&str, &str)], mtls: bool| {
        let request = Request { mtls, ..request() };
        let container = container(&pod(&[]), &settings_with(variables), &request);
        words(&container.unwrap().unwrap()).join(" ")
    };
    let own = [
        ("ACTORS_SERVICE_NAME", "own"),
        ("ACTORS_SERVICE_ADDRESS", "host:1"),
        ("REMINDERS_SERVICE_NAME", "two"),
        ("REMINDERS_SERVICE_ADDRESS", "host:2"),
    ];
    let found = arguments(&own, false);
    let expected = "--actors-service own:host.dapr-system.svc.cluster.local:1 \
        --reminders-service two:host.dapr-system.svc.cluster.local:2 --scheduler-host-address";
    assert!(found.contains(expected), "{found}");
    assert!(
        !found.contains("placement") && !found.contains("--enable-mtls"),
        "{found}"
    );
    let found = arguments(&[("ACTORS_ENABLED", "false")], true);
    assert!(
        !found.contains("placement") && !found.contains("actors"),
        "{found}"
    );
    let no_scheduler = Settings {
        scheduler: None,
        ..settings()
    };
    let set = pod(&[("scheduler-host-address", "s:1")]);
    for (pod, expected) in [(pod(&[]), false), (set, true)] {
        let container = container(&pod, &no_scheduler, &request()).unwrap().unwrap();
        assert_eq!(
            words(&container).contains(&"--scheduler-host-address"),
            expected
        );
    }
}

/// What stands at a place of the container.
#[track_caller]
fn check(annotations: &[(&str, &str)], pointer: &str, expected: Value) {
    let container = sidecar(annotations);
    let found = container.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(found, expected, "{annotations:?} {pointer}");
}

#[test]
fn image_ports_and_probes() {
    check(&[], "/image", json!("daprd:1"));
    check(&[("sidecar-image", "own:2")], "/image", json!("own:2"));
    check(&[("sidecar-image", "")], "/image", json!("daprd:1"));
    check(&[], "/imagePullPolicy", json!("Always"));
    check(
        &[("grpc-port", "7")],
        "/ports/1",
        json!({"name": "dapr-grpc", "containerPort": 7}),
    );
    check(
        &[("internal-grpc-port", "8")],
        "/ports/2/containerPort",
        json!(8),
    );
    let metrics = [("enable-metrics", "false"), ("metrics-port", "9")];
    check(
        &metrics,
        "/ports/3",
        json!({"name": "dapr-metrics", "containerPort": 9}),
    );
    check(&[], "/ports/4", Value::Null);
    let ready = json!({
        "httpGet": {"path": "/v1.0/healthz", "port": 3501}, "initialDelaySeconds": 1,
        "timeoutSeconds": 1, "periodSeconds": 1, "failureThreshold": 5,
    });
    check(&[], "/readinessProbe", ready);
    let live = json!({
        "tcpSocket": {"port": 3501}, "initialDelaySeconds": 180,
        "timeoutSeconds": 3, "periodSeconds": 10, "failureThreshold": 5,
    });
    check(&[], "/livenessProbe", live);
    for probe in ["liveness", "readiness"] {
        for (name, field) in [
            ("delay-seconds", "initialDelaySeconds"),
            ("timeout-seconds", "timeoutSeconds"),
            ("period-seconds", "periodSeconds"),
            ("threshold", "failureThreshold"),
        ] {
            let name = format!("sidecar-{probe}-probe-{name}");
            let pointer = format!("/{probe}Probe/{field}");
            check(&[(&name, "77")], &pointer, json!(77));
            check(&[(&name, "0")], &pointer, Value::Null);
        }
    }
    check(&[], "/startupProbe", Value::Null);
}

#[test]
fn resources_are_all_or_nothing() {
    check(&[], "/resources", json!({}));
    let all = [
        ("sidecar-cpu-request", "0.1"),
        ("sidecar-cpu-limit", "1000m"),
        ("sidecar-memory-request", "64Mi"),
        ("sidecar-memory-limit", "1024Mi"),
    ];
    let expected = json!({
        "requests": {"cpu": "100m", "memory": "64Mi"},
        "limits": {"cpu": "1", "memory": "1Gi"},
    });
    check(&all, "/resources", expected);
    check(
        &all[..1],
        "/resources",
        json!({"requests": {"cpu": "100m"}}),
    );
    check(
        &[all[0], ("sidecar-memory-limit", "lots")],
        "/resources",
        json!({}),
    );
}

#[test]
fn security_context() {
    let plain = json!({
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
    });
    check(&[], "/securityContext", plain);
    let profile = [("sidecar-seccomp-profile-type", "RuntimeDefault")];
    check(
        &profile,
        "/securityContext/seccompProfile",
        json!({"type": "RuntimeDefault"}),
    );
    let settings = settings_with(&[
        ("SIDECAR_RUN_AS_NON_ROOT", "false"),
        ("SIDECAR_READ_ONLY_ROOT_FILESYSTEM", "false"),
        ("SIDECAR_RUN_AS_USER", "1000"),
        ("SIDECAR_RUN_AS_GROUP", "2000"),
        ("SIDECAR_DROP_ALL_CAPABILITIES", "true"),
    ]);
    let context = |annotations: &[(&str, &str)]| {
        let found = container(&pod(annotations), &settings, &request())
            .unwrap()
            .unwrap();
        found["securityContext"].clone()
    };
    let expected = json!({
        "allowPrivilegeEscalation": false, "runAsNonRoot": false, "readOnlyRootFilesystem": false,
        "runAsUser": 1000, "runAsGroup": 2000, "capabilities": {"drop": ["ALL"]},
    });
    assert_eq!(context(&[]), expected);
    let windows = json!({
        "allowPrivilegeEscalation": false, "runAsNonRoot": false, "readOnlyRootFilesystem": false,
        "capabilities": {"drop": ["ALL"]},
        "windowsOptions": {"runAsUserName": "ContainerAdministrator"},
    });
    assert_eq!(context(&[("env", "SSL_CERT_DIR=c:/certs")]), windows);
    assert_eq!(
        context(&[("env-from-secret", "SSL_CERT_DIR=certs")]),
        windows
    );
}

#[test]
fn environment_in_order() {
    let environment = json!([
        {"name": "NAMESPACE", "value": "shop"},
        {"name": "DAPR_TRUST_ANCHORS", "value": "PEM"},
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "DAPR_CONTROLPLANE_NAMESPACE", "value": "dapr-system"},
        {"name": "DAPR_CONTROLPLANE_TRUST_DOMAIN", "value": "cluster.local"},
        {"name": "DAPR_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "A", "value": "1,2"},
        {"name": "B", "value": "3"},
        {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "s"}}},
        {"name": "D", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "DAPR_ENV_KEYS", "value": "A B C D E"},
        {"name": "DAPR_COMPONENT_SOCKETS_FOLDER", "value": "/sockets"},
        {"name": "DAPR_API_TOKEN", "valueFrom": {"secretKeyRef": {"name": "api", "key": "token"}}},
        {"name": "APP_API_TOKEN", "valueFrom": {"secretKeyRef": {"name": "app", "key": "token"}}},
    ]);
    let pod = pod(&[
        ("env", "A=1,2,B=3"),
        ("env-from-secret", "C=s,D=s:k,E=s:k:x"),
        ("pluggable-components", "app"),
        ("pluggable-components-sockets-folder", "/sockets"),
        ("api-token-secret", "api"),
        ("app-token-secret", "app"),
    ]);
    let settings = settings_with(&[("ENABLE_K8S_DOWNWARD_APIS", "true")]);
    let found = container(&pod, &settings, &request()).unwrap().unwrap();
    assert_eq!(found["env"], environment);
    check(&[], "/env/5", Value::Null);
}

#[test]
fn mounts_in_order() {
    let all = [
        ("volume-mounts", "data:/ro,absent:/x"),
        ("volume-mounts-rw", "data:/rw"),
        ("unix-domain-socket-path", "/app-sockets"),
        ("pluggable-components", "app"),
    ];
    let expected = json!([
        {"name": "data", "mountPath": "/ro", "readOnly": true},
        {"name": "data", "mountPath": "/rw"},
        {"name": "dapr-unix-domain-socket", "mountPath": "/var/run/dapr-sockets"},
        {"name": "dapr-identity-token", "mountPath": "/var/run/secrets/dapr.io/sentrytoken", "readOnly": true},
        {"name": "dapr-components-unix-domain-socket", "mountPath": "/tmp/dapr-components-sockets"},
    ]);
    check(&all, "/volumeMounts", expected);
    let patch = patch(&pod(&all), &settings(), &request()).unwrap();
    assert_eq!(
        patch.notes,
        ["the pod has no volume \"absent\" for the sidecar to mount at /x"]
    );
    let none = Settings {
        token: Token::Absent,
        ..settings()
    };
    let bare = container(&pod(&[]), &none, &request()).unwrap().unwrap();
    assert_eq!(bare.get("volumeMounts"), None);
}

#[test]
fn debugging_and_ignored_entrypoints() {
    let debugger = "/dlv --listen :40000 --accept-multiclient --headless=true --log --api-version=2 exec /daprd --";
    let debug = [("enable-debug", "true")];
    let expected = PLAIN.replacen("/daprd", debugger, 1);
    assert_eq!(words(&sidecar(&debug)).join(" "), expected);
    check(
        &debug,
        "/ports/4",
        json!({"name": "dapr-debug", "containerPort": 40000}),
    );
    check(&[debug[0], ("debug-port", "1")], "/args/2", json!(":1"));
    check(&[], "/command", Value::Null);

    let tolerations = r#"[{"key": "aws", "effect": "NoSchedule"}]"#;
    let settings = settings_with(&[("IGNORE_ENTRYPOINT_TOLERATIONS", tolerations)]);
    let tolerant = |own: Value| {
        let mut pod = pod(&debug);
        pod.spec.tolerations = vec![serde_json::from_value(own).unwrap()];
        let found = container(&pod, &settings, &request()).unwrap().unwrap();
        (found["command"].clone(), words(&found)[0].to_owned())
    };
    let ignored = tolerant(json!({"key": "aws", "effect": "NoSchedule"}));
    assert_eq!(ignored, (json!(["/dlv"]), "--listen".to_owned()));
    for other in [
        json!({"key": "aws"}),
        json!({"key": "aws", "effect": "NoSchedule", "operator": "Exists"}),
        json!({"key": "aws", "effect": "NoSchedule", "tolerationSeconds": 1}),
    ] {
        assert_eq!(tolerant(other), (Value::Null, "/dlv".to_owned()));
    }
}

#[test]
fn native_sidecars_are_init_containers_that_go_on() {
    let native = Settings {
        mode: Mode::Native,
        ..settings()
    };
    for (settings, annotation, expected) in [
        (settings(), None, false),
        (settings(), Some("true"), true),
        (native.clone(), None, true),
        (native, Some("false"), false),
    ] {
        let annotation = annotation.map(|value| ("enable-native-sidecar", value));
        let pod = pod(&Vec::from_iter(annotation));
        let found = container(&pod, &settings, &request()).unwrap().unwrap();
        assert_eq!(
            found.get("restartPolicy") == Some(&json!("Always")),
            expected
        );
        let patch = patch(&pod, &settings, &request()).unwrap();
        let is_init = patch
            .operations
            .iter()
            .any(|it| it.path == "/spec/initContainers/-");
        assert_eq!(is_init, expected);
    }
}

#[test]
fn app_ids() {
    let check = |annotation: Option<&str>, name: &str, expected: Result<&str, &str>| {
        let mut pod = pod(&Vec::from_iter(annotation.map(|id| ("app-id", id))));
        name.clone_into(&mut pod.metadata.name);
        let found = patch(&pod, &settings(), &request()).map(|patch| {
            let label = patch
                .operations
                .iter()
                .find(|it| it.path == "/metadata/labels/dapr.io~1app-id");
            label.unwrap().value.as_str().unwrap().to_owned()
        });
        match expected {
            Ok(id) => assert_eq!(found.as_deref(), Ok(id), "{annotation:?} {name}"),
            Err(text) => {
                let error = found.unwrap_err().to_string();
                assert!(error.contains(text), "{error}");
            }
        }
    };
    check(Some("shop"), "cart", Ok("shop"));
    check(None, "cart", Ok("cart"));
    check(Some(""), "cart", Ok("cart"));
    check(
        None,
        "",
        Err("value for the dapr.io/app-id annotation is empty"),
    );
    let (longest, longer) = ("a".repeat(58), "a".repeat(59));
    check(Some(&longest), "", Ok(&longest));
    check(Some("a-"), "", Ok("a-"));
    for bad in [longer.as_str(), "-a", "Shop", "a.b", "a_b", "ä"] {
        check(Some(bad), "cart", Err("invalid app id"));
    }
    let long = "A".repeat(59);
    check(
        Some(&long),
        "",
        Err(&format!(
            "invalid app id (input: '{long}', service: '{long}-dapr'): must be no more than 63 characters\n\
             a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        )),
    );
}

#[test]
fn a_pod_with_a_sidecar_is_left_alone() {
    for list in ["containers", "initContainers"] {
        let pod = json!({"spec": {list: [{"name": "daprd"}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(patch(&pod, &settings(), &request()), Ok(Patch::default()));
    }
}

#[test]
fn what_users_set_is_never_overridden() {
    let mut pod = pod(&[("unix-domain-socket-path", "/sockets")]);
    pod.spec.containers = serde_json::from_value(json!([
        {"name": "a", "env": [{"name": "DAPR_GRPC_PORT"}], "volumeMounts": [{"name": "x", "mountPath": "/sockets"}]},
        {"name": "b"},
    ]))
    .unwrap();
    let patch = patch(&pod, &settings(), &request()).unwrap();
    let of = |prefix: &str| -> Vec<(&str, &Value)> {
        let operations = patch
            .operations
            .iter()
            .filter(|it| it.path.starts_with(prefix));
        operations.map(|it| (it.path.as_str(), &it.value)).collect()
    };
    let http = json!({"name": "DAPR_HTTP_PORT", "value": "3500"});
    let protocol = json!({"name": "APP_PROTOCOL", "value": "http"});
    let expected = [
        ("/spec/containers/0/env/-", &http),
        ("/spec/containers/0/env/-", &protocol),
    ];
    assert_eq!(of("/spec/containers/0"), expected);
    let grpc = json!({"name": "DAPR_GRPC_PORT", "value": "50001"});
    let mount = json!([{"name": "dapr-unix-domain-socket", "mountPath": "/sockets"}]);
    let all = json!([http, grpc, protocol]);
    let expected = [
        ("/spec/containers/1/env", &all),
        ("/spec/containers/1/volumeMounts", &mount),
    ];
    assert_eq!(of("/spec/containers/1"), expected);
}

#[test]
fn protocols_of_the_app() {
    let check = |annotations: &[(&str, &str)], expected: Option<&str>| {
        let patch = patch(&pod(annotations), &settings(), &request()).unwrap();
        let env = patch
            .operations
            .iter()
            .find(|it| it.path == "/spec/containers/0/env")
            .unwrap();
        let found = env
            .value
            .get(2)
            .map(|variable| variable["value"].as_str().unwrap());
        assert_eq!(found, expected, "{annotations:?}");
    };
    check(&[], Some("http"));
    check(&[("app-ssl", "true")], Some("https"));
    check(&[("app-protocol", ""), ("app-ssl", "true")], Some("http"));
    check(
        &[("app-protocol", "GRPC"), ("app-ssl", "true")],
        Some("grpcs"),
    );
    check(&[("app-protocol", "tcp")], None);
}

#[test]
fn components_bring_one_container_per_image_and_only_in_scope() {
    let component = |name: &str, scopes: &[&str], container: Value| ComponentContainer {
        name: name.to_owned(),
        scopes: scopes.iter().map(|it| (*it).to_owned()).collect(),
        container: container.to_string(),
    };
    let components = [
        component(
            "first",
            &[],
            json!({"image": "i", "volumeMounts": [{"name": "own", "mountPath": "/o"}, {"name": "dapr-identity-token", "mountPath": "/t"}]}),
        ),
        component("second", &[], json!({"image": "i"})),
        component("others", &["other"], json!({"image": "j"})),
        component("broken", &[], json!([])),
    ];
    let request = Request {
        components: Some(&components),
        ..request()
    };
    let pod = pod(&[
        ("inject-pluggable-components", "true"),
        ("enable-native-sidecar", "true"),
    ]);
    let patch = patch(&pod, &settings(), &request).unwrap();
    let socket = json!({"name": "dapr-components-unix-domain-socket", "emptyDir": {}});
    let volumes: Vec<_> = patch
        .operations
        .iter()
        .filter(|it| it.path == "/spec/volumes/-")
        .collect();
    assert_eq!(volumes.len(), 3, "the token is there already");
    assert_eq!(volumes[1].value, socket);
    assert_eq!(volumes[2].value, json!({"name": "own", "emptyDir": {}}));
    let added: Vec<_> = patch
        .operations
        .iter()
        .filter(|it| it.path == "/spec/containers/-")
        .collect();
    assert_eq!(added.len(), 1);
    assert_eq!(patch.operations.last(), Some(added[0]));
    let folder = "/tmp/dapr-components-sockets";
    let expected = json!({
        "name": "first", "image": "i", "resources": {},
        "env": [{"name": "DAPR_COMPONENT_SOCKETS_FOLDER", "value": folder}],
        "volumeMounts": [
            {"name": "own", "mountPath": "/o"},
            {"name": "dapr-identity-token", "mountPath": "/t"},
            {"name": "dapr-components-unix-domain-socket", "mountPath": folder},
        ],
    });
    assert_eq!(added[0].value, expected);
    let container = |own: Value| {
        let components = [component("first", &[], own)];
        let request = Request {
            components: Some(&components),
            ..request
        };
        let patch = super::patch(&pod, &settings(), &request).unwrap();
        patch.operations.last().unwrap().value.clone()
    };
    let elsewhere = container(json!({
        "env": [{"name": "DAPR_COMPONENT_SOCKETS_FOLDER", "value": "/mine"}],
        "volumeMounts": [{"name": "dapr-components-unix-domain-socket", "mountPath": "/mine"}],
    }));
    assert_eq!(
        (
            &elsewhere["env"][1]["value"],
            &elsewhere["volumeMounts"][1]["mountPath"]
        ),
        (&json!(folder), &json!(folder)),
        "the sidecar looks nowhere else"
    );
    let taken = container(json!({"volumeMounts": [{"name": "own", "mountPath": folder}]}));
    assert_eq!(
        taken.pointer("/volumeMounts/1"),
        None,
        "no path is mounted twice"
    );
    assert!(
        patch.notes[0].contains("of Component \"broken\" is no container"),
        "{:?}",
        patch.notes
    );
}
