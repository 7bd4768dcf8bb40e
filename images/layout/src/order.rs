//! Names of functions, and the file that puts them in order.

use std::collections::{HashMap, HashSet};
use std::fmt;

use rustc_demangle::try_demangle;

/// Characters of a name that are kept for people to read; the rest is in its key.
const READABLE: usize = 72;

/// What a symbol is called whatever made it: the path of a Rust function with its types, without the hashes of crates;
/// everything else as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u64);

impl Key {
    /// The key of a symbol.
    pub fn of(symbol: &str) -> Self {
        Self(fnv(&name(symbol)))
    }
}

/// What a symbol is called: see [`Key`].
fn name(symbol: &str) -> String {
    match try_demangle(symbol) {
        Ok(path) => format!("{path:#}"),
        Err(_) => symbol.to_owned(),
    }
}

/// 64-bit FNV-1a: the same for ever, which no hasher of the standard library promises.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A line that is not one of an order.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Counted from one.
    pub line: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}: neither \"<16 hexadecimal digits> <name>\" nor a comment",
            self.line
        )
    }
}

impl std::error::Error for Malformed {}

/// The order of functions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Order {
    places: HashMap<Key, usize>,
}

impl Order {
    /// Reads what [`Order::write`] wrote. Empty lines, and lines that begin with `#`, are comments.
    ///
    /// # Errors
    /// A line is none of these.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut places = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let malformed = Malformed { line: index + 1 };
            let Some((key, _readable)) = line.split_once(' ').filter(|(key, _)| key.len() == 16)
            else {
                return Err(malformed);
            };
            let key = u64::from_str_radix(key, 16).map_err(|_error| malformed)?;
            let next = places.len();
            places.entry(Key(key)).or_insert(next);
        }
        Ok(Self { places })
    }

    /// The lines of these symbols, each once.
    pub fn write<'a>(symbols: impl IntoIterator<Item = &'a str>) -> String {
        let mut text = String::new();
        let mut seen = HashSet::new();
        for symbol in symbols {
            let key = Key::of(symbol);
            if seen.insert(key) {
                let name = name(symbol);
                let end = name.floor_char_boundary(READABLE);
                text.push_str(&format!("{key} {}\n", &name[..end]));
            }
        }
        text
    }

    /// Those of `symbols` that the order knows, in its order; what has the same name stays together.
    pub fn sort<'a>(&self, symbols: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let mut known: Vec<(usize, &str)> = symbols
            .into_iter()
            .filter_map(|symbol| Some((*self.places.get(&Key::of(symbol))?, symbol)))
            .collect();
        known.sort_unstable();
        known.dedup();
        known.into_iter().map(|(_, symbol)| symbol).collect()
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Key, Malformed, Order};

    // One function as two compilers call it: the hash of its crate differs, in length, too.
    const OLD: &str = "_RNvCs1hBDkVHVNpg_7example3run";
    const NEW: &str = "_RNvCsg_7example3run";
    // The same in the other way of naming, whose hash is at the end.
    const LEGACY: &str = "_ZN7example3run17h0123456789abcdefE";

    #[test]
    fn a_name_is_the_same_whatever_made_it() {
        assert_eq!(Key::of(OLD), Key::of(NEW));
        assert_eq!(Key::of(OLD), Key::of(LEGACY));
        assert_ne!(Key::of(OLD), Key::of("_RNvCsg_7example4walk"));
        assert_ne!(Key::of("malloc"), Key::of("free"));
        // For ever: orders that are written down hold it.
        assert_eq!(Key::of("malloc").to_string(), "d9c0619da0f59bad");
    }

    #[test]
    fn what_the_order_knows_comes_in_its_order() {
        let text = Order::write(["memcpy", OLD, "memcpy", "free"]);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains(" example::run\n"), "{text}");
        let order = Order::parse(&format!("# hot\n\n{text}")).expect("it is its own text");
        assert_eq!(order.len(), 3);
        let known = order.sort(["free", "unknown", NEW, LEGACY, NEW, "memcpy"]);
        assert_eq!(known, ["memcpy", NEW, LEGACY, "free"]);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for text in [
            "# fine\nmemcpy",
            "0123 memcpy",
            "01234567 89abcdef",
            "zzzzzzzzzzzzzzzz memcpy",
        ] {
            let line = text.lines().count();
            assert_eq!(Order::parse(text), Err(Malformed { line }), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_any_symbol_named(text in "([0-9a-f]{16} .{0,9}\n|.{0,20}\n){0,9}", symbol in "(_R|_ZN)?.{0,40}") {
            drop(Order::parse(&text));
            let written = Order::write([symbol.as_str()]);
            // A symbol with a line break would be two lines; no assembler makes one.
            if !symbol.contains(['\n', '\r']) && symbol.trim() == symbol && !symbol.is_empty() {
                let order = Order::parse(&written).expect("it was written");
                prop_assert_eq!(order.sort([symbol.as_str()]), [symbol.as_str()]);
            }
        }
    }
}
