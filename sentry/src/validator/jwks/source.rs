//! Which kind of source the validator's options name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use dapr_kit::duration::GoDuration;

use super::keys::KeySet;

const REFRESH: Duration = Duration::from_secs(10 * 60);
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why the options are refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("jwks validator: option \"source\" is required")]
    Missing,
    #[error("jwks validator: no valid key set in option \"source\"")]
    Parse(#[source] serde_json::Error),
    #[error("jwks validator: option \"source\" is neither a URL, nor a file, nor a key set")]
    Unknown,
    #[error("jwks validator: option {0:?} is no duration")]
    Duration(&'static str),
}

/// Where the keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Inline(KeySet),
    File(PathBuf),
    Url(Address),
}

/// A URL and how to fetch from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) url: String,
    /// PEM text or the path of a PEM file; none means the roots of the system.
    pub(crate) authority: Option<String>,
    pub(crate) refresh: Duration,
    pub(crate) timeout: Duration,
}

impl Source {
    /// Reads the options; `is_file` says whether a path is a file.
    pub(crate) fn from_options(
        options: &BTreeMap<String, String>,
        is_file: impl Fn(&Path) -> bool,
    ) -> Result<Self, Error> {
        let option = |name: &str| {
            options
                .get(name)
                .map(|it| it.trim())
                .filter(|it| !it.is_empty())
        };
        let source = option("source").ok_or(Error::Missing)?;
        let refresh = duration(
            "minRefreshInterval",
            option("minRefreshInterval"),
            Duration::from_secs(1),
            REFRESH,
        )?;
        let timeout = duration(
            "requestTimeout",
            option("requestTimeout"),
            Duration::from_millis(1),
            TIMEOUT,
        )?;
        if source.starts_with("https://") || source.starts_with("http://") {
            let authority = option("caCertificate").map(str::to_owned);
            return Ok(Self::Url(Address {
                url: source.to_owned(),
                authority,
                refresh,
                timeout,
            }));
        }
        if is_file(Path::new(source)) {
            return Ok(Self::File(source.into()));
        }
        if source.starts_with('{') {
            return parse(source.as_bytes());
        }
        let decoded = [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
            .iter()
            .find_map(|engine| engine.decode(source).ok())
            .ok_or(Error::Unknown)?;
        parse(&decoded)
    }
}

fn parse(text: &[u8]) -> Result<Source, Error> {
    KeySet::parse(text)
        .map(Source::Inline)
        .map_err(Error::Parse)
}

/// A Go duration or whole seconds; what is not above the limit does not apply.
fn duration(
    name: &'static str,
    text: Option<&str>,
    above: Duration,
    default: Duration,
) -> Result<Duration, Error> {
    let Some(text) = text else { return Ok(default) };
    let duration = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            text.parse::<GoDuration>()
                .map_err(|_| Error::Duration(name))?
                .0
        }
    };
    Ok(if duration > above { duration } else { default })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<Source, Error> {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Source::from_options(&options, |path| path == Path::new("/keys.json"))
    }

    #[test]
    fn sources_are_told_apart() {
        let check = |source: &str, expected: &str| {
            let found = match read(&[("source", source)]) {
                Ok(Source::Inline(keys)) => format!("inline {}", keys.len()),
                Ok(Source::File(path)) => format!("file {}", path.display()),
                Ok(Source::Url(address)) => format!("url {}", address.url),
                Err(error) => error.to_string(),
            };
            assert!(found.contains(expected), "{source}: {found}");
        };
        check("/keys.json", "file /keys.json");
        check("{\"keys\": []}", "inline 0");
        check(&STANDARD.encode("{\"keys\": []}"), "inline 0");
        check(&URL_SAFE_NO_PAD.encode("{\"keys\": [] }"), "inline 0");
        check("https://example.org/keys", "url https://example.org/keys");
        check("http://example.org/keys", "url http://example.org/keys");
        check("/nowhere.json", "neither a URL, nor a file, nor a key set");
        check("{", "no valid key set");
        check("a b", "neither a URL, nor a file, nor a key set");
        check(" ", "option \"source\" is required");
    }

    #[test]
    fn durations_are_go_or_seconds_and_have_a_lower_limit() {
        let check = |refresh: &str, timeout: &str, expected: Option<(u64, u64)>| {
            let options = [
                ("source", "http://a"),
                ("minRefreshInterval", refresh),
                ("requestTimeout", timeout),
            ];
            let found = match read(&options) {
                Ok(Source::Url(it)) => {
                    Some((it.refresh.as_millis() as u64, it.timeout.as_millis() as u64))
                }
                Ok(_) | Err(_) => None,
            };
            assert_eq!(found, expected, "{refresh} {timeout}");
        };
        check("", "", Some((600_000, 30_000)));
        check("20", "5", Some((20_000, 5_000)));
        check("1m", "2ms", Some((60_000, 2)));
        check("1s", "1ms", Some((600_000, 30_000)));
        check("soon", "", None);
        check("", "-1s", None);
    }

    proptest! {
        #[test]
        fn no_source_panics(source in ".{0,100}", refresh in ".{0,10}") {
            drop(read(&[("source", &source), ("minRefreshInterval", &refresh)]));
        }
    }
}
