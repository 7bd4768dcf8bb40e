//! The JWTs Sentry may issue beside a certificate, as far as a client looks at them: signatures are for those the
//! tokens are shown to.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::certificate::moment;

/// How far the clocks of Sentry and of the process may be apart, in seconds.
const SKEW: f64 = 300.0;

/// Why Sentry's tokens are refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No JWT.
    #[error("JWT cannot be parsed")]
    Malformed,
    /// A JWT that has run out.
    #[error("JWT has expired")]
    Expired,
    /// A JWT of the future.
    #[error("JWT is not valid yet")]
    NotYet,
    /// A JWT for nobody.
    #[error("JWT has no audience")]
    NoAudience,
    /// The token for all audiences is not for the process's own trust domain.
    #[error("JWT is not meant for the trust domain {0}")]
    TrustDomain(String),
    /// A token for one audience is for others too, or for another.
    #[error("JWT is not meant for exactly {0}")]
    Audience(String),
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    aud: Audience,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    iat: Option<f64>,
    #[serde(default)]
    exp: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Audience {
    fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

/// Checks the tokens of one answer and returns the validity of the one for all audiences, if it says when it ends.
pub(crate) fn check(
    token: Option<&str>,
    per_audience: &HashMap<String, String>,
    trust_domain: &str,
    now: SystemTime,
) -> Result<Option<(SystemTime, SystemTime)>, Error> {
    for (audience, token) in per_audience {
        match parse(token, now)?.aud.names() {
            [only] if only == audience => {}
            _ => return Err(Error::Audience(audience.clone())),
        }
    }
    let Some(token) = token else { return Ok(None) };
    let claims = parse(token, now)?;
    if !claims.aud.names().iter().any(|name| name == trust_domain) {
        return Err(Error::TrustDomain(trust_domain.to_owned()));
    }
    let Some(exp) = claims.exp else {
        return Ok(None);
    };
    let not_before = claims.nbf.or(claims.iat).unwrap_or(exp);
    Ok(Some((moment(not_before as i64), moment(exp as i64))))
}

fn parse(token: &str, now: SystemTime) -> Result<Claims, Error> {
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Error::Malformed);
    };
    let claims = URL_SAFE_NO_PAD
        .decode(claims)
        .map_err(|_| Error::Malformed)?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Error::Malformed)?;
    claims.check_times(now)?;
    if claims.aud.names().is_empty() {
        Err(Error::NoAudience)
    } else {
        Ok(claims)
    }
}

impl Claims {
    /// Each of the three only if it is there.
    fn check_times(&self, now: SystemTime) -> Result<(), Error> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = now.as_secs_f64();
        if self.exp.is_some_and(|exp| now >= exp + SKEW) {
            return Err(Error::Expired);
        }
        let begins = [self.nbf, self.iat];
        if begins.iter().flatten().any(|from| now < from - SKEW) {
            return Err(Error::NotYet);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    /// The moment of all checks.
    const NOW: i64 = 25;

    fn check_all(
        all: &str,
        per_audience: &[(&str, &str)],
        expected: Result<Option<(i64, i64)>, Error>,
    ) {
        let per_audience = per_audience
            .iter()
            .map(|(name, claims)| ((*name).to_owned(), token(claims)))
            .collect();
        let found = check(Some(&token(all)), &per_audience, "public", moment(NOW));
        assert_eq!(
            found,
            expected.map(|it| it.map(|(from, to)| (moment(from), moment(to)))),
            "{all}"
        );
    }

    #[test]
    fn audiences_are_checked() {
        check_all(
            r#"{"aud": "public", "nbf": 10, "exp": 30}"#,
            &[],
            Ok(Some((10, 30))),
        );
        check_all(
            r#"{"aud": ["public", "a"], "iat": 20, "exp": 30}"#,
            &[("a", r#"{"aud": ["a"], "exp": 30}"#)],
            Ok(Some((20, 30))),
        );
        check_all(
            r#"{"aud": ["a"], "exp": 30}"#,
            &[],
            Err(Error::TrustDomain("public".to_owned())),
        );
        check_all(r#"{"aud": [], "exp": 30}"#, &[], Err(Error::NoAudience));
        check_all(r#"{"exp": 30}"#, &[], Err(Error::NoAudience));
        check_all(
            r#"{"aud": "public", "exp": "soon"}"#,
            &[],
            Err(Error::Malformed),
        );
        check_all("text", &[], Err(Error::Malformed));
        let wrong = Err(Error::Audience("a".to_owned()));
        check_all(
            r#"{"aud": "public", "exp": 30}"#,
            &[("a", r#"{"aud": ["a", "b"], "exp": 30}"#)],
            wrong,
        );
        assert_eq!(
            check(None, &HashMap::new(), "public", moment(NOW)),
            Ok(None)
        );
    }

    #[test]
    fn times_count_where_they_are_and_clocks_may_differ() {
        let expired = || Err(Error::Expired);
        check_all(r#"{"aud": "public"}"#, &[], Ok(None));
        check_all(r#"{"aud": "public", "iat": 10}"#, &[], Ok(None));
        check_all(
            r#"{"aud": "public", "exp": -274}"#,
            &[],
            Ok(Some((-274, -274))),
        );
        check_all(r#"{"aud": "public", "exp": -275}"#, &[], expired());
        check_all(r#"{"aud": "public", "nbf": 325}"#, &[], Ok(None));
        check_all(r#"{"aud": "public", "nbf": 326}"#, &[], Err(Error::NotYet));
        check_all(r#"{"aud": "public", "iat": 326}"#, &[], Err(Error::NotYet));
        check_all(
            r#"{"aud": "public"}"#,
            &[("a", r#"{"aud": ["a"], "exp": -275}"#)],
            expired(),
        );
    }

    proptest! {
        #[test]
        fn no_token_panics(text in ".{0,80}", claims in ".{0,80}") {
            prop_assert!(check(Some(&text), &HashMap::new(), "public", moment(NOW)).is_err());
            prop_assert!(check(Some(&token(&claims)), &HashMap::new(), "public", moment(NOW)).is_err());
        }
    }
}
