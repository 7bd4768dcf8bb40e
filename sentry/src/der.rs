//! The little DER that is written by hand: sequences are taken apart and put together again.

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// The elements of a sequence, each with its tag and length; none if `der` is not exactly one sequence.
pub(crate) fn elements(der: &[u8]) -> Option<Vec<&[u8]>> {
    let (header, length) = header(der)?;
    if der.first() != Some(&SEQUENCE) || header.checked_add(length)? != der.len() {
        return None;
    }
    let mut rest = &der[header..];
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let (header, length) = self::header(rest)?;
        let (element, after) = rest.split_at_checked(header.checked_add(length)?)?;
        elements.push(element);
        rest = after;
    }
    Some(elements)
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

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
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
