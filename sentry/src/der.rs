//! The little DER that is written by hand: sequences are taken apart and put together again.

use std::time::SystemTime;

use time::OffsetDateTime;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;

/// The elements of a sequence, each with its tag and length; none if `der` is not exactly one sequence.
pub(crate) fn elements(der: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = content(SEQUENCE, der)?;
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let (header, length) = self::header(rest)?;
        let (element, after) = rest.split_at_checked(header.checked_add(length)?)?;
        elements.push(element);
        rest = after;
    }
    Some(elements)
}

/// What is inside of an element; none if `der` is not exactly one element with this tag.
pub(crate) fn content(tag: u8, der: &[u8]) -> Option<&[u8]> {
    let (header, length) = header(der)?;
    if der.first() != Some(&tag) || header.checked_add(length)? != der.len() {
        return None;
    }
    der.get(header..)
}

/// The lengths of an element's header and of its content.
fn header(der: &[u8]) -> Option<(usize, usize)> {
    let first = *der.get(1)?;
    if first < 0x80 {
        return Some((2, usize::from(first)));
    }
    let bytes = der.get(2..2 + usize::from(first & 0x7f))?;
    if bytes.is_empty() || bytes.len() > 4 {
        return None;
    }
    let length = bytes
        .iter()
        .fold(0usize, |length, byte| length << 8 | usize::from(*byte));
    Some((2 + bytes.len(), length))
}

/// A sequence of elements.
pub(crate) fn sequence(elements: &[&[u8]]) -> Vec<u8> {
    element(SEQUENCE, elements)
}

/// A bit string of whole bytes.
pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    element(BIT_STRING, &[&[0], bytes])
}

/// A string of bytes.
pub(crate) fn octet_string(bytes: &[u8]) -> Vec<u8> {
    element(OCTET_STRING, &[bytes])
}

/// A number that is not negative, most significant byte first.
pub(crate) fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let bytes = &bytes[zeros..];
    // The first bit is the sign.
    let sign: &[u8] = match bytes.first() {
        Some(0..0x80) => &[],
        Some(0x80..) | None => &[0],
    };
    element(INTEGER, &[sign, bytes])
}

/// A moment to the second, in the way certificates have to write it; none if it has no four-digit year.
pub(crate) fn time(moment: SystemTime) -> Option<Vec<u8>> {
    const END: u64 = 253_402_300_799; // 9999-12-31T23:59:59Z
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    if since.as_secs() > END {
        return None;
    }
    let date = OffsetDateTime::from(moment);
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    let (hour, minute, second) = date.to_hms();
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    Some(if year < 2050 {
        let year = format!("{:02}", year % 100);
        element(UTC_TIME, &[year.as_bytes(), rest.as_bytes()])
    } else {
        let year = format!("{year:04}");
        element(GENERALIZED_TIME, &[year.as_bytes(), rest.as_bytes()])
    })
}

/// An element of any tag.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut der = Vec::with_capacity(length + 6);
    der.push(tag);
    if length < 0x80 {
        der.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let bytes = &bytes[length.leading_zeros() as usize / 8..];
        der.push(0x80 | bytes.len() as u8);
        der.extend_from_slice(bytes);
    }
    parts.iter().for_each(|part| der.extend_from_slice(part));
    der
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_as_short_as_possible() {
        let check = |length: usize, expected: &[u8]| {
            let der = element(SEQUENCE, &[&vec![0; length]]);
            assert_eq!(&der[1..der.len() - length], expected, "{length}");
        };
        check(0, &[0]);
        check(0x7f, &[0x7f]);
        check(0x80, &[0x81, 0x80]);
        check(0xff, &[0x81, 0xff]);
        check(0x100, &[0x82, 1, 0]);
        check(0x1_0000, &[0x83, 1, 0, 0]);
    }

    #[test]
    fn what_is_no_sequence_is_refused() {
        for der in [
            &[][..],
            &[0x30],
            &[0x30, 1],
            &[0x30, 0, 0],
            &[0x31, 0],
            &[0x30, 0x80],
            &[0x30, 2, 4, 9],
        ] {
            assert_eq!(elements(der), None, "{der:x?}");
        }
    }

    #[test]
    fn numbers_are_positive_and_as_short_as_possible() {
        let check = |bytes: &[u8], expected: &[u8]| {
            assert_eq!(integer(bytes)[2..], *expected, "{bytes:x?}");
        };
        check(&[], &[0]);
        check(&[0, 0], &[0]);
        check(&[0x7f], &[0x7f]);
        check(&[0x80], &[0, 0x80]);
        check(&[0, 0, 1, 2], &[1, 2]);
        check(&[0, 0xff, 0], &[0, 0xff, 0]);
    }

    #[test]
    fn years_from_2050_have_four_digits() {
        let check = |seconds: u64, expected: Option<(u8, &str)>| {
            let found = time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            let expected = expected.map(|(tag, text)| element(tag, &[text.as_bytes()]));
            assert_eq!(found, expected, "{seconds}");
        };
        check(0, Some((UTC_TIME, "700101000000Z")));
        check(951_782_399, Some((UTC_TIME, "000228235959Z")));
        check(951_782_400, Some((UTC_TIME, "000229000000Z")));
        check(2_524_607_999, Some((UTC_TIME, "491231235959Z")));
        check(2_524_608_000, Some((GENERALIZED_TIME, "20500101000000Z")));
        check(253_402_300_799, Some((GENERALIZED_TIME, "99991231235959Z")));
        check(253_402_300_800, None);
        assert_eq!(time(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), None);
    }

    proptest! {
        #[test]
        fn sequences_are_read_back(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6)) {
            let parts: Vec<_> = parts.iter().map(|part| bit_string(part)).collect();
            let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
            let whole = sequence(&parts);
            prop_assert_eq!(elements(&whole), Some(parts));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            drop(elements(&bytes));
        }
    }
}
