//! gzip, for those who ask for it.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, HeaderMap};

/// Whether a client with these headers takes gzip: it names it, or anything, and does not give it the weight 0.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT_ENCODING).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|coding| {
            let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
            let weight = parameters.trim().strip_prefix("q=");
            let is_refused = weight.is_some_and(|weight| weight.trim().parse() == Ok(0.0f32));
            let name = name.trim();
            !is_refused && (name.eq_ignore_ascii_case("gzip") || name == "*")
        })
}

/// `text`, compressed; `None` if that fails, and it goes out as it is.
pub(super) fn gzip(text: &[u8]) -> Option<Vec<u8>> {
    // Scrapes are frequent and their text repeats itself: the fast level makes nearly as little of it.
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    encoder.write_all(text).ok()?;
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn gzip_has_to_be_named_and_not_refused() {
        let check = |value: &str, expected: bool| {
            let value = HeaderValue::from_str(value).expect("a value");
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, value)]);
            assert_eq!(accepts_gzip(&headers), expected, "{headers:?}");
        };
        check("gzip", true);
        check("deflate, GZIP;q=0.5", true);
        check("*", true);
        check("identity", false);
        check("gzip;q=0", false);
        check("gzip; q=0.000, br", false);
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
