//! The command line, and the settings it makes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use dapr_kit::bind::Endpoint;
use dapr_kit::duration::GoDuration;
use dapr_kit::flags::{Environment, int};
use dapr_kit::log::{self, LogArgs, LogIdentity};
use dapr_kit::metrics::MetricsArgs;
use dapr_kit::process::refuse_root;
use dapr_kit::shutdown::Shutdown;
use dapr_kubernetes::Place;
use dapr_security::TrustDomain;
use kube::Client;

use crate::oidc::server::TlsFiles;
use crate::storage::Directory;
use crate::{app, config, jwt, oidc};

mod rotate;

pub use rotate::RotateArgs;

/// The flags of `sentry`.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "sentry", about = "The certificate authority of Dapr")]
pub struct Args {
    /// Where Sentry runs: kubernetes or standalone.
    #[arg(long, default_value = "standalone")]
    mode: String,
    /// Path of the configuration file; in Kubernetes the name of the Configuration.
    #[arg(long, default_value = "daprsystem")]
    config: PathBuf,
    /// Trust domain of the certificate authority.
    #[arg(long, default_value = "localhost")]
    trust_domain: String,
    /// Directory of the issuer's credentials.
    #[arg(long, default_value = "/var/run/secrets/dapr.io/credentials")]
    issuer_credentials: PathBuf,
    /// File of the root certificates.
    #[arg(long, default_value = "ca.crt")]
    issuer_ca_filename: PathBuf,
    /// File of the issuer's certificate chain.
    #[arg(long, default_value = "issuer.crt")]
    issuer_certificate_filename: PathBuf,
    /// File of the issuer's private key.
    #[arg(long, default_value = "issuer.key")]
    issuer_key_filename: PathBuf,
    /// Port of the gRPC server.
    #[arg(long, default_value = "50001", value_parser = int::<u16>)]
    port: u16,
    /// Address of the gRPC server; empty means all.
    #[arg(long, default_value = "")]
    listen_address: String,
    /// Port of the health server.
    #[arg(long, default_value = "8080", value_parser = int::<u16>)]
    healthz_port: u16,
    /// Accepted and not applied.
    #[arg(long, default_value = "")]
    healthz_listen_address: String,
    /// Issue JWTs beside certificates.
    #[arg(long)]
    jwt_enabled: bool,
    /// File of the JWT signing key.
    #[arg(long, default_value = "jwt.key")]
    jwt_key_filename: PathBuf,
    /// File of the published JWT keys.
    #[arg(long, default_value = "jwks.json")]
    jwks_filename: PathBuf,
    /// Issuer named in JWTs.
    #[arg(long, default_value = "")]
    jwt_issuer: String,
    /// Algorithm JWTs are signed with.
    #[arg(long, default_value = "RS256")]
    jwt_signing_algorithm: String,
    /// Id of the JWT signing key.
    #[arg(long, default_value = "")]
    jwt_key_id: String,
    /// Lifetime of JWTs.
    #[arg(long, default_value = "24h")]
    jwt_ttl: GoDuration,
    /// Serve OIDC discovery.
    #[arg(long)]
    oidc_enabled: bool,
    /// Address of the OIDC server.
    #[arg(long, default_value = "localhost")]
    oidc_server_listen_address: String,
    /// Port of the OIDC server.
    #[arg(long, default_value = "9080", value_parser = int::<u16>)]
    oidc_server_listen_port: u16,
    /// Serve OIDC with TLS.
    #[arg(long, default_value_t = true)]
    oidc_server_tls_enabled: bool,
    /// Certificate of the OIDC server.
    #[arg(long, default_value = "")]
    oidc_server_tls_cert_file: PathBuf,
    /// Private key of the OIDC server.
    #[arg(long, default_value = "")]
    oidc_server_tls_key_file: PathBuf,
    /// JWKS address in the discovery document.
    #[arg(long, default_value = "")]
    oidc_jwks_uri: String,
    /// Prefix of the OIDC paths.
    #[arg(long, default_value = "")]
    oidc_path_prefix: String,
    /// Hosts the OIDC server answers for.
    #[arg(long, value_delimiter = ',')]
    oidc_allowed_hosts: Vec<String>,
    /// Path of the kubeconfig file; the default is that of the pod, or below the home directory.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// How long root and issuer certificates that Sentry makes are valid.
    #[arg(long, default_value = "8760h")]
    root_validity: GoDuration,
    /// How long before its end a root that Sentry made is replaced by itself; 0 means never.
    #[arg(long, default_value = "720h")]
    rotate_before: GoDuration,
    /// In Kubernetes: how long another replica may take to hear of a step of the rotation. Each phase lasts longer, unless
    /// there is one replica.
    #[arg(long, default_value = "2m")]
    replica_lag: GoDuration,
    /// In Kubernetes: the one namespace whose pods get certificates; empty is all.
    #[arg(long, default_value = "", value_name = "NAMESPACE")]
    watch_namespace: String,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    metrics: MetricsArgs,
}

/// JWTs: whether they are issued, and how they are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Jwt {
    pub(crate) enabled: bool,
    pub(crate) config: jwt::Config,
}

/// The OIDC server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Oidc {
    pub(crate) endpoint: Endpoint,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) config: oidc::Config,
}

/// The command line, checked.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) namespace: String,
    /// The files of the material. In Kubernetes only their names matter, and that they change.
    pub(crate) directory: Directory,
    /// The API server, in Kubernetes mode.
    pub(crate) cluster: Option<Client>,
    /// Host of the API server of the cluster around this process, as the kubelet tells it.
    pub(crate) api_server: Option<String>,
    pub(crate) root_validity: Duration,
    pub(crate) rotate_before: Duration,
    pub(crate) replica_lag: Duration,
    /// The one namespace whose pods get certificates.
    pub(crate) watch_namespace: Option<String>,
    pub(crate) jwt: Jwt,
    pub(crate) oidc: Option<Oidc>,
    pub(crate) mtls: config::Mtls,
    pub(crate) grpc: Endpoint,
    pub(crate) healthz: Endpoint,
    pub(crate) metrics: MetricsArgs,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("trust_domain", &self.trust_domain)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Args {
    /// Runs Sentry until `shutdown`.
    ///
    /// # Errors
    /// Everything that keeps it from starting or going on.
    pub async fn run(self, environment: Environment, shutdown: Shutdown) -> anyhow::Result<()> {
        let _log = log::init(&self.log, LogIdentity::new("dapr.sentry"))?;
        let token = shutdown.token();
        let settings = tokio::select! {
            settings = self.settings(&environment) => settings?,
            () = token.cancelled() => return Ok(()),
        };
        app::run(settings, shutdown).await
    }

    async fn settings(self, environment: &Environment) -> anyhow::Result<Settings> {
        // Destructured completely, so that a flag without effect has to be named here.
        let Self {
            mode,
            config,
            trust_domain,
            issuer_credentials,
            issuer_ca_filename,
            issuer_certificate_filename,
            issuer_key_filename,
            port,
            listen_address,
            healthz_port,
            healthz_listen_address: _,
            jwt_enabled,
            jwt_key_filename,
            jwks_filename,
            jwt_issuer,
            jwt_signing_algorithm,
            jwt_key_id,
            jwt_ttl,
            oidc_enabled,
            oidc_server_listen_address,
            oidc_server_listen_port,
            oidc_server_tls_enabled,
            oidc_server_tls_cert_file,
            oidc_server_tls_key_file,
            oidc_jwks_uri,
            oidc_path_prefix,
            oidc_allowed_hosts,
            kubeconfig,
            root_validity,
            rotate_before,
            replica_lag,
            watch_namespace,
            log: _,
            metrics,
        } = self;
        let mode = Mode::read(&mode)?;
        let namespace = environment.non_empty("NAMESPACE");
        let root_validity = positive("--root-validity", root_validity)?;
        ensure!(
            rotate_before.0 < root_validity,
            "--rotate-before must be shorter than --root-validity"
        );
        ensure!(
            jwt_enabled || jwt_issuer.is_empty(),
            "--jwt-issuer requires --jwt-enabled"
        );
        let (mtls, cluster) = match mode {
            Mode::Standalone => (config::Mtls::read(&config).await, None),
            Mode::Kubernetes => {
                let namespace = self::namespace(environment)?;
                if !environment.truthy("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK") {
                    refuse_root()?;
                }
                let client = client(kubeconfig, environment).await?;
                let name = config.display().to_string();
                let mtls = config::Mtls::fetch(&client, namespace, &name).await;
                (mtls, Some(client))
            }
        };
        let mtls =
            mtls.with_context(|| format!("failed to load configuration {}", config.display()))?;
        let paths = [
            issuer_credentials.join(issuer_ca_filename),
            issuer_credentials.join(issuer_certificate_filename),
            issuer_credentials.join(issuer_key_filename),
            absolute_or(&jwt_key_filename, issuer_credentials.join("jwt.key")),
            absolute_or(&jwks_filename, issuer_credentials.join("jwks.json")),
        ];
        let [root, chain, key, jwt_key, jwt_keys] = &paths;
        // Without JWTs nobody asks which algorithm they are signed with.
        let algorithm = if jwt_enabled {
            jwt::Algorithm::read(&jwt_signing_algorithm).map_err(anyhow::Error::msg)?
        } else {
            jwt::Algorithm::default()
        };
        let jwt = Jwt {
            enabled: jwt_enabled,
            config: jwt::Config {
                algorithm,
                key_id: non_empty(jwt_key_id),
                issuer: non_empty(jwt_issuer),
                ttl: jwt_ttl.0,
                clock_skew: mtls.clock_skew,
            },
        };
        let tls = tls_files(oidc_server_tls_cert_file, oidc_server_tls_key_file)?;
        // Without JWTs there is nothing to discover, and upstream says nothing about it.
        let oidc = (oidc_enabled && jwt_enabled).then(|| Oidc {
            endpoint: Endpoint::new(
                "--oidc-server-listen-port",
                oidc_server_listen_address,
                oidc_server_listen_port,
            ),
            config: oidc::Config {
                scheme: if tls.is_some() { "https" } else { "http" },
                issuer: jwt.config.issuer.clone(),
                jwks_uri: non_empty(oidc_jwks_uri),
                prefix: oidc::Prefix::read(&oidc_path_prefix),
                allowed_hosts: oidc_allowed_hosts
                    .into_iter()
                    .filter(|host| !host.is_empty())
                    .collect(),
                algorithm: jwt.config.algorithm,
            },
            tls,
        });
        ensure!(
            !oidc_server_tls_enabled || oidc.as_ref().is_none_or(|oidc| oidc.tls.is_some()),
            "--oidc-server-tls-cert-file and --oidc-server-tls-key-file are required, or --oidc-server-tls-enabled=false"
        );
        if let Some(Oidc { config, .. }) = &oidc {
            for (flag, text) in [
                ("--jwt-issuer", config.issuer.as_deref()),
                ("--oidc-jwks-uri", config.jwks_uri.as_deref()),
                ("--oidc-path-prefix", Some(oidc_path_prefix.as_str())),
            ] {
                let text = text.unwrap_or_default();
                oidc::reference::check(text).with_context(|| format!("invalid {flag} {text:?}"))?;
            }
        }
        Ok(Settings {
            trust_domain: crate::validator::trust_domain(&trust_domain)
                .with_context(|| format!("invalid --trust-domain {trust_domain:?}"))?,
            namespace: namespace.unwrap_or("default").to_owned(),
            directory: Directory::new(&issuer_credentials, [root, chain, key, jwt_key, jwt_keys]),
            cluster,
            api_server: environment
                .non_empty("KUBERNETES_SERVICE_HOST")
                .map(str::to_owned),
            root_validity,
            rotate_before: rotate_before.0,
            replica_lag: replica_lag.0,
            watch_namespace: non_empty(watch_namespace),
            jwt,
            oidc,
            mtls,
            grpc: Endpoint::new("--port", listen_address, port),
            healthz: Endpoint::new("--healthz-port", "", healthz_port),
            metrics,
        })
    }
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Upstream ignores a relative name for these files.
fn absolute_or(path: &Path, default: PathBuf) -> PathBuf {
    if path.is_absolute() {
        path.to_owned()
    } else {
        default
    }
}

fn tls_files(certificate: PathBuf, key: PathBuf) -> anyhow::Result<Option<TlsFiles>> {
    match (
        certificate.as_os_str().is_empty(),
        key.as_os_str().is_empty(),
    ) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(TlsFiles { certificate, key })),
        _ => bail!("--oidc-server-tls-cert-file and --oidc-server-tls-key-file go together"),
    }
}

/// Where Sentry runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Standalone,
    Kubernetes,
}

impl Mode {
    fn read(text: &str) -> anyhow::Result<Self> {
        match text {
            "standalone" => Ok(Self::Standalone),
            "kubernetes" => Ok(Self::Kubernetes),
            other => bail!("invalid --mode {other:?}: use kubernetes or standalone"),
        }
    }
}

/// In Kubernetes it has to be said.
fn namespace(environment: &Environment) -> anyhow::Result<&str> {
    environment
        .non_empty("NAMESPACE")
        .context("NAMESPACE is not set: it names the namespace of the control plane")
}

async fn client(kubeconfig: Option<PathBuf>, environment: &Environment) -> anyhow::Result<Client> {
    let place = Place::choose(
        kubeconfig.as_deref(),
        environment.non_empty("KUBERNETES_SERVICE_HOST"),
        environment.non_empty("KUBERNETES_SERVICE_PORT"),
        environment.non_empty("HOME").map(Path::new),
    )?;
    Ok(dapr_kubernetes::client(&place).await?)
}

fn positive(flag: &str, GoDuration(duration): GoDuration) -> anyhow::Result<Duration> {
    ensure!(!duration.is_zero(), "{flag} must be longer than 0");
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use dapr_kit::flags::{Dashes, try_parse_from};

    use crate::storage::Item;

    use super::*;

    async fn settings(flags: &[&str]) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.yaml");
        std::fs::write(&config, "spec: {}").unwrap();
        let config = format!("--config={}", config.display());
        let arguments = ["sentry", &config].into_iter().chain(flags.iter().copied());
        let args: Args = try_parse_from(Dashes::OneOrTwo, arguments).unwrap();
        args.settings(&Environment::default())
            .await
            .map_err(|error| format!("{error:#}"))
    }

    #[tokio::test]
    async fn defaults_are_upstreams() {
        let settings = settings(&[]).await.unwrap();
        assert_eq!(settings.trust_domain.as_str(), "localhost");
        assert_eq!(settings.namespace, "default");
        assert_eq!(settings.grpc.port, 50001);
        assert_eq!(settings.healthz.port, 8080);
        assert_eq!(settings.watch_namespace, None);
        // As long as the kubelet may take to renew a mounted Secret, which tells what a lost event did not.
        assert_eq!(settings.replica_lag, Duration::from_secs(120));
        let folder = Path::new("/var/run/secrets/dapr.io/credentials");
        for (item, name) in [
            (Item::Root, "ca.crt"),
            (Item::Chain, "issuer.crt"),
            (Item::Key, "issuer.key"),
            (Item::JwtKey, "jwt.key"),
            (Item::JwtKeys, "jwks.json"),
        ] {
            assert_eq!(settings.directory.path(item), folder.join(name));
        }
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        let exit = try_parse_from::<Args, _, _>(Dashes::OneOrTwo, ["sentry", "--port", "abc"])
            .expect_err("no number");
        let reason = exit.text.lines().last().unwrap_or_default();
        assert_eq!(
            reason,
            "invalid argument \"abc\" for \"--port\" flag: strconv.ParseInt: parsing \"abc\": invalid syntax"
        );
    }

    #[tokio::test]
    async fn one_namespace_is_watched_when_it_is_named() {
        let settings = settings(&["--watch-namespace=shop"]).await.unwrap();
        assert_eq!(settings.watch_namespace.as_deref(), Some("shop"));
    }

    #[tokio::test]
    async fn absolute_file_names_leave_the_directory() {
        let settings = settings(&["-issuer-ca-filename", "/etc/root.pem"])
            .await
            .unwrap();
        assert_eq!(
            settings.directory.path(Item::Root),
            Path::new("/etc/root.pem")
        );
    }

    #[tokio::test]
    async fn relative_names_of_jwt_files_are_ignored() {
        let flags = [
            "--jwt-key-filename=other.key",
            "--jwks-filename=/etc/keys.json",
        ];
        let directory = settings(&flags).await.unwrap().directory;
        assert_eq!(
            directory.path(Item::JwtKey),
            Path::new("/var/run/secrets/dapr.io/credentials/jwt.key")
        );
        assert_eq!(directory.path(Item::JwtKeys), Path::new("/etc/keys.json"));
    }

    #[tokio::test]
    async fn the_algorithm_of_jwts_only_matters_with_them() {
        let unknown = "--jwt-signing-algorithm=other";
        assert!(settings(&[unknown]).await.is_ok());
        assert!(settings(&[unknown, "--jwt-enabled"]).await.is_err());
        let known = ["--jwt-signing-algorithm=ES512", "--jwt-enabled"];
        let jwt = settings(&known).await.unwrap().jwt;
        assert_eq!(jwt.config.algorithm, jwt::Algorithm::Es512);
    }

    #[tokio::test]
    async fn oidc_needs_jwts() {
        assert_eq!(settings(&["--oidc-enabled"]).await.unwrap().oidc, None);
        let flags = [
            "--oidc-enabled",
            "--jwt-enabled",
            "--oidc-server-tls-enabled=false",
            "--oidc-path-prefix=/p/",
        ];
        let oidc = settings(&flags).await.unwrap().oidc.unwrap();
        assert_eq!(
            (oidc.config.scheme, oidc.config.prefix, oidc.endpoint.port),
            ("http", oidc::Prefix::read("/p"), 9080)
        );
        let flags = [
            "--oidc-enabled",
            "--jwt-enabled",
            "--oidc-server-tls-cert-file=/c",
            "--oidc-server-tls-key-file=/k",
        ];
        assert_eq!(
            settings(&flags).await.unwrap().oidc.unwrap().config.scheme,
            "https"
        );
    }

    #[tokio::test]
    async fn urls_of_the_discovery_document_are_checked_where_there_is_one() {
        let served = [
            "--jwt-enabled",
            "--oidc-enabled",
            "--oidc-server-tls-enabled=false",
        ];
        let check = async |flag: &str, expected: &str| {
            let error = settings(&[&served[..], &[flag]].concat())
                .await
                .unwrap_err();
            assert_eq!(error, expected);
        };
        check(
            "--oidc-jwks-uri=:bad",
            "invalid --oidc-jwks-uri \":bad\": the scheme before the colon is missing",
        )
        .await;
        check(
            "--jwt-issuer=http://a b/",
            "invalid --jwt-issuer \"http://a b/\": host or port are invalid",
        )
        .await;
        check(
            "--oidc-path-prefix=/%",
            "invalid --oidc-path-prefix \"/%\": a % has no two hexadecimal digits behind it",
        )
        .await;
        for flags in [
            &["--oidc-jwks-uri=:bad"][..],
            &[
                "--oidc-jwks-uri=:bad",
                "--oidc-enabled",
                "--oidc-server-tls-enabled=false",
            ],
            &["--jwt-issuer=:bad", "--jwt-enabled"],
        ] {
            assert!(settings(flags).await.is_ok(), "{flags:?}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_served_is_named() {
        let check = async |flags: &[&str], expected: &str| {
            let error = settings(flags).await.unwrap_err();
            assert!(error.contains(expected), "{flags:?}: {error}");
        };
        check(&["--mode=kubernetes"], "NAMESPACE is not set").await;
        check(&["--root-validity=0s"], "--root-validity must be longer").await;
        check(
            &["--root-validity=1h", "--rotate-before=1h"],
            "--rotate-before must be shorter than --root-validity",
        )
        .await;
        check(&["--mode=other"], "invalid --mode \"other\"").await;
        check(
            &["--jwt-enabled", "--jwt-signing-algorithm=HS256"],
            "is not supported",
        )
        .await;
        check(
            &["--jwt-enabled", "--oidc-enabled"],
            "--oidc-server-tls-cert-file and",
        )
        .await;
        check(&["--oidc-server-tls-key-file=/key"], "go together").await;
        check(&["--jwt-issuer=me"], "--jwt-issuer requires --jwt-enabled").await;
        check(&["--trust-domain=not valid"], "invalid --trust-domain").await;
        check(
            &["--config=/nowhere/at/all"],
            "failed to load configuration /nowhere/at/all",
        )
        .await;
    }
}
