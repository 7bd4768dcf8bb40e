//! The environment of the injector: what it puts into sidecars, and for whom.

use std::num::ParseIntError;
use std::path::PathBuf;

use dapr_kit::flags::{self, Environment};
use dapr_kit::truthy;

use crate::glob;
use crate::patch::pod::Toleration;

/// The variable with the patterns of service accounts that may create pods with sidecars.
pub(crate) const ALLOWED_SERVICE_ACCOUNTS: &str = "ALLOWED_SERVICE_ACCOUNTS";
/// Its deprecated sibling, with the same meaning.
pub(crate) const OLD_ALLOWED_SERVICE_ACCOUNTS: &str = "ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES";

/// The settings of the injector that come from the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `SIDECAR_IMAGE`: the image of the sidecar.
    pub sidecar_image: String,
    /// `NAMESPACE`: the control-plane namespace.
    pub namespace: String,
    /// `SIDECAR_IMAGE_PULL_POLICY`.
    pub image_pull_policy: PullPolicy,
    /// `KUBE_CLUSTER_DOMAIN`; `None` asks for detection.
    pub cluster_domain: Option<String>,
    /// `ALLOWED_SERVICE_ACCOUNTS` and its deprecated sibling.
    pub allowed_service_accounts: Vec<AccountPattern>,
    /// `IGNORE_ENTRYPOINT_TOLERATIONS`: a JSON array, see [`Config::entrypoint_tolerations`].
    pub ignore_entrypoint_tolerations: Option<String>,
    /// `ACTORS_ENABLED`.
    pub actors_enabled: bool,
    /// `ACTORS_SERVICE_NAME` and `_ADDRESS`.
    pub actors_service: Service,
    /// `REMINDERS_SERVICE_NAME` and `_ADDRESS`; `None` when the name is empty or `default`.
    pub reminders_service: Option<Service>,
    /// `SIDECAR_RUN_AS_NON_ROOT`.
    pub run_as_non_root: bool,
    /// `SIDECAR_RUN_AS_USER`.
    pub run_as_user: Option<i64>,
    /// `SIDECAR_RUN_AS_GROUP`.
    pub run_as_group: Option<i64>,
    /// `SIDECAR_READ_ONLY_ROOT_FILESYSTEM`.
    pub read_only_root_filesystem: bool,
    /// `ENABLE_K8S_DOWNWARD_APIS`: tell sidecars the IP of their host.
    pub downward_apis: bool,
    /// `SIDECAR_DROP_ALL_CAPABILITIES`.
    pub drop_all_capabilities: bool,
    /// `NATIVE_SIDECAR_ENABLED`: the default of the native sidecar mode.
    pub native_sidecar: NativeSidecar,
    /// `DAPR_TRUST_ANCHORS_FILE`.
    pub trust_anchors_file: PathBuf,
    /// `DAPR_CONTROL_PLANE_TRUST_DOMAIN`.
    pub control_plane_trust_domain: String,
    /// `DAPR_SENTRY_ADDRESS`, for the injector's own identity.
    pub sentry_address: String,
    /// `DAPR_COMPONENT_SOCKETS_FOLDER`: where sidecars look for pluggable components.
    pub component_sockets_folder: PathBuf,
}

/// When a node fetches the sidecar image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// `Always`.
    Always,
    /// `Never`.
    Never,
    /// `IfNotPresent`.
    IfNotPresent,
}

/// Whether sidecars are native ones where the pod does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeSidecar {
    /// A word that means yes.
    Yes,
    /// Any other word.
    No,
    /// `auto`, and nothing: where the API server knows them. Upstream takes nothing for no.
    Auto,
}

/// A service of the control plane that sidecars are told about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The implementation's name, such as `placement`.
    pub name: String,
    /// The name of the Kubernetes Service.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Globs for the namespace and name of service accounts that may create pods with sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountPattern {
    /// Glob of the namespace.
    pub namespace: String,
    /// Glob of the name.
    pub name: String,
}

/// An environment that does not let the injector start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A variable without which nothing can be injected.
    #[error("Error getting config: required key {0} missing value")]
    Missing(&'static str),
    /// A service address that is none.
    #[error(
        "Error getting config: failed to parse configuration: invalid value for {role} service address: \
         service is not in the correct format '<name>:<port>': {address}"
    )]
    Service {
        /// What the service is for.
        role: &'static str,
        /// What was given.
        address: String,
    },
    /// A number that is none.
    #[error("Error getting config: failed to parse configuration: {key} is {text:?}")]
    Number {
        /// The variable.
        key: &'static str,
        /// Its value.
        text: String,
        /// What is wrong with it.
        source: ParseIntError,
    },
    /// A service account pattern without its one colon.
    #[error("invalid pattern {0:?}, must contain exactly one ':' separating namespace and name")]
    Pattern(String),
    /// A service account pattern that says nothing.
    #[error("namespace and name patterns cannot both be empty")]
    EmptyPattern,
    /// A service account pattern with a malformed glob.
    #[error("invalid pattern {entry:?}: {half:?} is no valid glob")]
    Glob {
        /// The pattern.
        entry: String,
        /// What is malformed.
        half: String,
    },
    /// Without it there is no identity, and no certificate to serve with.
    #[error("DAPR_SENTRY_ADDRESS is not set: the injector gets its certificate from there")]
    NoSentry,
}

impl Config {
    /// Reads and checks the variables.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn from_environment(environment: &Environment) -> Result<Self, Error> {
        let required = |key| environment.non_empty(key).ok_or(Error::Missing(key));
        let image = required("SIDECAR_IMAGE")?;
        Self::or(environment, image, required("NAMESPACE")?)
    }

    /// As [`Config::from_environment`], with what takes the place of the two variables that are required.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn or(environment: &Environment, image: &str, namespace: &str) -> Result<Self, Error> {
        let text = |key, default: &str| environment.non_empty(key).unwrap_or(default).to_owned();
        let on_by_default = |key| environment.non_empty(key).is_none_or(truthy);
        Ok(Self {
            sidecar_image: text("SIDECAR_IMAGE", image),
            namespace: text("NAMESPACE", namespace),
            image_pull_policy: pull_policy(environment.get("SIDECAR_IMAGE_PULL_POLICY")),
            cluster_domain: environment
                .non_empty("KUBE_CLUSTER_DOMAIN")
                .map(str::to_owned),
            allowed_service_accounts: account_patterns(environment)?,
            ignore_entrypoint_tolerations: environment
                .non_empty("IGNORE_ENTRYPOINT_TOLERATIONS")
                .map(str::to_owned),
            actors_enabled: on_by_default("ACTORS_ENABLED"),
            actors_service: actors_service(environment)?,
            reminders_service: reminders_service(environment)?,
            run_as_non_root: on_by_default("SIDECAR_RUN_AS_NON_ROOT"),
            run_as_user: number(environment, "SIDECAR_RUN_AS_USER")?,
            run_as_group: number(environment, "SIDECAR_RUN_AS_GROUP")?,
            read_only_root_filesystem: on_by_default("SIDECAR_READ_ONLY_ROOT_FILESYSTEM"),
            downward_apis: environment.truthy("ENABLE_K8S_DOWNWARD_APIS"),
            drop_all_capabilities: environment.truthy("SIDECAR_DROP_ALL_CAPABILITIES"),
            native_sidecar: native_sidecar(environment.get("NATIVE_SIDECAR_ENABLED")),
            trust_anchors_file: text("DAPR_TRUST_ANCHORS_FILE", "/var/run/dapr.io/tls/ca.crt")
                .into(),
            control_plane_trust_domain: text("DAPR_CONTROL_PLANE_TRUST_DOMAIN", "cluster.local"),
            sentry_address: text("DAPR_SENTRY_ADDRESS", ""),
            component_sockets_folder: text(
                "DAPR_COMPONENT_SOCKETS_FOLDER",
                "/tmp/dapr-components-sockets",
            )
            .into(),
        })
    }
}

impl Config {
    /// The tolerations of pods whose nodes ignore the entrypoint of images; none if the variable is no JSON.
    pub fn entrypoint_tolerations(&self) -> Vec<Toleration> {
        let text = self.ignore_entrypoint_tolerations.as_deref();
        let tolerations = text.and_then(|text| serde_json::from_str(text).ok());
        tolerations.flatten().unwrap_or_default()
    }

    /// What is not taken over, for the log.
    pub fn warning(&self) -> Option<String> {
        let text = self.ignore_entrypoint_tolerations.as_deref()?;
        let error = serde_json::from_str::<Option<Vec<Toleration>>>(text).err()?;
        Some(format!("Couldn't parse entrypoint tolerations: {error}"))
    }
}

fn native_sidecar(text: Option<&str>) -> NativeSidecar {
    match text.map(str::trim) {
        None | Some("") => NativeSidecar::Auto,
        Some(text) if text.eq_ignore_ascii_case("auto") => NativeSidecar::Auto,
        Some(text) if truthy(text) => NativeSidecar::Yes,
        Some(_) => NativeSidecar::No,
    }
}

fn pull_policy(text: Option<&str>) -> PullPolicy {
    match text {
        None | Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some(_) => PullPolicy::IfNotPresent,
    }
}

/// Without a name the address is the chart's own, whatever `ACTORS_SERVICE_ADDRESS` says: an upstream quirk.
fn actors_service(environment: &Environment) -> Result<Service, Error> {
    match environment.non_empty("ACTORS_SERVICE_NAME") {
        None => service("actor", "placement", "dapr-placement-server:50005"),
        Some(name) => service(
            "actor",
            name,
            environment
                .get("ACTORS_SERVICE_ADDRESS")
                .unwrap_or_default(),
        ),
    }
}

fn reminders_service(environment: &Environment) -> Result<Option<Service>, Error> {
    match environment.get("REMINDERS_SERVICE_NAME") {
        None | Some("" | "default") => Ok(None),
        Some(name) => service(
            "reminder",
            name,
            environment
                .get("REMINDERS_SERVICE_ADDRESS")
                .unwrap_or_default(),
        )
        .map(Some),
    }
}

fn service(role: &'static str, name: &str, address: &str) -> Result<Service, Error> {
    let malformed = || Error::Service {
        role,
        address: address.to_owned(),
    };
    let parts = address.split_once(':').filter(|(host, _)| !host.is_empty());
    let (host, port) = parts.ok_or_else(malformed)?;
    let port = flags::port(port).ok().filter(|port| *port != 0);
    let port = port.ok_or_else(malformed)?;
    Ok(Service {
        name: name.to_owned(),
        host: host.to_owned(),
        port,
    })
}

fn number(environment: &Environment, key: &'static str) -> Result<Option<i64>, Error> {
    let read = |text: &str| {
        text.parse().map_err(|source| Error::Number {
            key,
            text: text.to_owned(),
            source,
        })
    };
    environment.non_empty(key).map(read).transpose()
}

fn account_patterns(environment: &Environment) -> Result<Vec<AccountPattern>, Error> {
    [
        "ALLOWED_SERVICE_ACCOUNTS",
        "ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES",
    ]
    .into_iter()
    .flat_map(|key| environment.get(key).unwrap_or_default().split(','))
    .map(str::trim)
    .filter(|entry| !entry.is_empty())
    .map(account_pattern)
    .collect()
}

fn account_pattern(entry: &str) -> Result<AccountPattern, Error> {
    let halves = entry.split_once(':');
    match halves.map(|(namespace, name)| (namespace.trim(), name.trim())) {
        Some(("", "")) => Err(Error::EmptyPattern),
        Some((namespace, name)) if !name.contains(':') => {
            for half in [namespace, name] {
                if !glob::is_valid(half) {
                    return Err(Error::Glob {
                        entry: entry.to_owned(),
                        half: half.to_owned(),
                    });
                }
            }
            Ok(AccountPattern {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        }
        _ => Err(Error::Pattern(entry.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: [(&str, &str); 2] =
        [("SIDECAR_IMAGE", "daprd:1"), ("NAMESPACE", "dapr-system")];

    fn config<const N: usize>(variables: [(&str, &str); N]) -> Result<Config, Error> {
        let [image, namespace] = REQUIRED;
        let mut all = vec![image, namespace];
        all.extend(variables);
        Config::from_environment(&all.into_iter().collect())
    }

    #[track_caller]
    fn check_error<const N: usize>(variables: [(&str, &str); N], expected: &str) {
        assert_eq!(config(variables).expect_err(expected).to_string(), expected);
    }

    fn placement() -> Service {
        Service {
            name: "placement".to_owned(),
            host: "dapr-placement-server".to_owned(),
            port: 50005,
        }
    }

    #[test]
    fn defaults() {
        let expected = Config {
            sidecar_image: "daprd:1".to_owned(),
            namespace: "dapr-system".to_owned(),
            image_pull_policy: PullPolicy::Always,
            cluster_domain: None,
            allowed_service_accounts: Vec::new(),
            ignore_entrypoint_tolerations: None,
            actors_enabled: true,
            actors_service: placement(),
            reminders_service: None,
            run_as_non_root: true,
            run_as_user: None,
            run_as_group: None,
            read_only_root_filesystem: true,
            downward_apis: false,
            drop_all_capabilities: false,
            native_sidecar: NativeSidecar::Auto,
            trust_anchors_file: "/var/run/dapr.io/tls/ca.crt".into(),
            control_plane_trust_domain: "cluster.local".to_owned(),
            sentry_address: String::new(),
            component_sockets_folder: "/tmp/dapr-components-sockets".into(),
        };
        assert_eq!(config([]), Ok(expected));
    }

    #[test]
    fn required_variables() {
        let error = Config::from_environment(&Environment::default()).expect_err("no image");
        assert_eq!(
            error.to_string(),
            "Error getting config: required key SIDECAR_IMAGE missing value"
        );
        let error =
            Config::from_environment(&Environment::from([REQUIRED[0]])).expect_err("no namespace");
        assert_eq!(
            error.to_string(),
            "Error getting config: required key NAMESPACE missing value"
        );
    }

    #[test]
    fn pull_policies() {
        for (text, expected) in [
            ("Always", PullPolicy::Always),
            ("Never", PullPolicy::Never),
            ("IfNotPresent", PullPolicy::IfNotPresent),
            ("always", PullPolicy::IfNotPresent),
            ("", PullPolicy::IfNotPresent),
        ] {
            let config = config([("SIDECAR_IMAGE_PULL_POLICY", text)]).expect(text);
            assert_eq!(config.image_pull_policy, expected, "{text:?}");
        }
    }

    #[test]
    fn services() {
        let address = ("ACTORS_SERVICE_ADDRESS", "elsewhere:1");
        for unnamed in [
            config([address]),
            config([("ACTORS_SERVICE_NAME", ""), address]),
        ] {
            let found = unnamed.expect("fine").actors_service;
            assert_eq!(found, placement(), "no name, no address");
        }
        let own = config([("ACTORS_SERVICE_NAME", "own"), address]).expect("fine");
        let expected = Service {
            name: "own".to_owned(),
            host: "elsewhere".to_owned(),
            port: 1,
        };
        assert_eq!(own.actors_service, expected);
        for bad in ["", ":1", "a", "a:", "a:0", "a:65536", "a:http", "a:1:2"] {
            check_error(
                [
                    ("ACTORS_SERVICE_NAME", "own"),
                    ("ACTORS_SERVICE_ADDRESS", bad),
                ],
                &format!(
                    "Error getting config: failed to parse configuration: invalid value for actor service address: \
                     service is not in the correct format '<name>:<port>': {bad}"
                ),
            );
        }
        check_error(
            [("REMINDERS_SERVICE_NAME", "own")],
            "Error getting config: failed to parse configuration: invalid value for reminder service address: \
             service is not in the correct format '<name>:<port>': ",
        );
        let reminders = ("REMINDERS_SERVICE_ADDRESS", "elsewhere:1");
        assert_eq!(
            config([("REMINDERS_SERVICE_NAME", "default"), reminders])
                .expect("fine")
                .reminders_service,
            None
        );
        assert_eq!(
            config([("REMINDERS_SERVICE_NAME", "own"), reminders])
                .expect("fine")
                .reminders_service,
            Some(expected)
        );
    }

    #[test]
    fn switches_and_numbers() {
        let config = config([
            ("ACTORS_ENABLED", "no"),
            ("SIDECAR_RUN_AS_NON_ROOT", "false"),
            ("SIDECAR_READ_ONLY_ROOT_FILESYSTEM", "off"),
            ("ENABLE_K8S_DOWNWARD_APIS", "Y"),
            ("SIDECAR_DROP_ALL_CAPABILITIES", "1"),
            ("NATIVE_SIDECAR_ENABLED", " on "),
            ("SIDECAR_RUN_AS_USER", "1000"),
            ("SIDECAR_RUN_AS_GROUP", "-1"),
        ])
        .expect("fine");
        assert!(
            !config.actors_enabled && !config.run_as_non_root && !config.read_only_root_filesystem
        );
        assert!(config.downward_apis && config.drop_all_capabilities);
        assert_eq!(config.native_sidecar, NativeSidecar::Yes);
        assert_eq!(
            (config.run_as_user, config.run_as_group),
            (Some(1000), Some(-1))
        );
        for bad in ["root", "0x10", "1_0", " 1", "9223372036854775808"] {
            check_error(
                [("SIDECAR_RUN_AS_USER", bad)],
                &format!(
                    "Error getting config: failed to parse configuration: SIDECAR_RUN_AS_USER is {bad:?}"
                ),
            );
        }
    }

    #[test]
    fn service_accounts() {
        let config = config([
            ("ALLOWED_SERVICE_ACCOUNTS", " ns:* , ,team-* : deploy-*"),
            ("ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES", "old:x*"),
        ]);
        let names: Vec<_> = config
            .expect("fine")
            .allowed_service_accounts
            .into_iter()
            .map(|pattern| (pattern.namespace, pattern.name))
            .collect();
        let expected = [("ns", "*"), ("team-*", "deploy-*"), ("old", "x*")];
        assert_eq!(
            names,
            expected.map(|(namespace, name)| (namespace.to_owned(), name.to_owned()))
        );
        for bad in ["aa", "a:b:c"] {
            check_error(
                [("ALLOWED_SERVICE_ACCOUNTS", bad)],
                &format!(
                    "invalid pattern \"{bad}\", must contain exactly one ':' separating namespace and name"
                ),
            );
        }
        for bad in [":", " : "] {
            check_error(
                [("ALLOWED_SERVICE_ACCOUNTS", bad)],
                "namespace and name patterns cannot both be empty",
            );
        }
    }

    #[test]
    fn malformed_globs() {
        check_error(
            [("ALLOWED_SERVICE_ACCOUNTS", "ns:[a")],
            "invalid pattern \"ns:[a\": \"[a\" is no valid glob",
        );
    }

    #[test]
    fn native_sidecars() {
        for (text, expected) in [
            ("true", NativeSidecar::Yes),
            ("auto", NativeSidecar::Auto),
            (" Auto", NativeSidecar::Auto),
            ("false", NativeSidecar::No),
            ("automatic", NativeSidecar::No),
            ("", NativeSidecar::Auto),
        ] {
            let config = config([("NATIVE_SIDECAR_ENABLED", text)]).expect(text);
            assert_eq!(config.native_sidecar, expected, "{text:?}");
        }
    }

    #[test]
    fn tolerations_that_are_no_json_are_told() {
        let name = "IGNORE_ENTRYPOINT_TOLERATIONS";
        let bad = config([(name, r#"[{\"effect\":\"NoSchedule\"}]"#)]).expect("fine");
        assert_eq!(bad.entrypoint_tolerations(), []);
        let warning = bad.warning().expect("told");
        assert!(warning.starts_with("Couldn't parse entrypoint tolerations"));
        let good = config([(name, r#"[{"effect":"NoSchedule","key":"aws"}]"#)]).expect("fine");
        assert_eq!(good.entrypoint_tolerations()[0].key, "aws");
        assert_eq!(good.warning(), None);
        let none = config([(name, "null")]).expect("fine");
        assert_eq!(
            (none.entrypoint_tolerations(), none.warning()),
            (Vec::new(), None)
        );
    }
}
