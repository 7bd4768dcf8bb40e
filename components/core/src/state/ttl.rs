//! The `ttlInSeconds` of request metadata, as the stores with strict rules read it.

use std::num::IntErrorKind;

use super::RequestMetadata;

/// Name of the metadata entry; its spelling is exact.
pub const KEY: &str = "ttlInSeconds";

/// Seconds until an item expires: `None` for an absent or empty entry and for `0` and `-1`.
///
/// The rule of the SQL stores and etcd. The error is upstream's text, to which stores add their prefix.
pub fn seconds(metadata: &RequestMetadata) -> Result<Option<u32>, String> {
    let Some(text) = metadata.get(KEY).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let value = integer(text, "strconv.ParseInt")
        .and_then(|value| {
            if (-1..=i64::from(i32::MAX)).contains(&value) {
                Ok(value)
            } else {
                Err(RANGE.to_owned())
            }
        })
        .map_err(|cause| format!("incorrect value for metadata '{KEY}': {cause}"))?;
    Ok(u32::try_from(value).ok().filter(|seconds| *seconds > 0))
}

const RANGE: &str = "must be -1 or greater";

/// A decimal integer; the error reads as Go's `function` words it.
pub fn integer(text: &str, function: &str) -> Result<i64, String> {
    text.parse::<i64>().map_err(|error| {
        let why = match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("{function}: parsing {text:?}: {why}")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Option<u32>, String> {
        seconds(&[(KEY.to_owned(), text.to_owned())].into())
    }

    #[test]
    fn only_positive_seconds_expire() {
        let check = |text: &str, expected: Result<Option<u32>, &str>| {
            let expected = expected
                .map_err(|cause| format!("incorrect value for metadata 'ttlInSeconds': {cause}"));
            assert_eq!(read(text), expected, "{text}");
        };
        assert_eq!(seconds(&RequestMetadata::new()), Ok(None));
        check("", Ok(None));
        check("0", Ok(None));
        check("-1", Ok(None));
        check("10", Ok(Some(10)));
        check("2147483647", Ok(Some(2_147_483_647)));
        check("2147483648", Err(RANGE));
        check("-2", Err(RANGE));
        check("x", Err("strconv.ParseInt: parsing \"x\": invalid syntax"));
        check(
            "1.5",
            Err("strconv.ParseInt: parsing \"1.5\": invalid syntax"),
        );
        check(
            "99999999999999999999",
            Err("strconv.ParseInt: parsing \"99999999999999999999\": value out of range"),
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            if let Ok(Some(seconds)) = read(&text) {
                prop_assert!(seconds > 0);
            }
        }
    }
}
