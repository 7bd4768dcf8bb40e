//! A call of the linker, and what is added to it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use object::read::archive::ArchiveFile;
use object::{Object as _, ObjectSymbol as _, SymbolKind};

use crate::order::Order;

/// What a call of the linker, by its arguments, is about.
#[derive(Debug, PartialEq, Eq)]
pub struct Call<'a> {
    /// The file it makes.
    pub output: &'a Path,
    /// Objects and archives it makes it of, as far as they have a path.
    pub inputs: Vec<&'a Path>,
    /// Whether it is lld that links: others have no such option, or call it something else.
    pub is_lld: bool,
}

impl<'a> Call<'a> {
    /// Reads arguments as compilers for Unix take them; none if they make no file.
    pub fn read(arguments: &'a [OsString]) -> Option<Self> {
        let mut output = None;
        let mut inputs = Vec::new();
        let mut is_lld = false;
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            if argument == "-o" {
                output = arguments.next().map(Path::new);
            } else if argument == "-fuse-ld=lld" {
                is_lld = true;
            } else if is_input(argument) {
                inputs.push(Path::new(argument));
            }
        }
        Some(Self {
            output: output?,
            inputs,
            is_lld,
        })
    }
}

fn is_input(argument: &OsStr) -> bool {
    let is_flag = argument.as_encoded_bytes().starts_with(b"-");
    let extension = Path::new(argument).extension();
    !is_flag
        && extension
            .is_some_and(|extension| ["o", "a", "rlib"].iter().any(|known| extension == *known))
}

/// The arguments of a call that leaves the names of functions in its file, and where that file is.
pub fn named(arguments: &[OsString], output: &Path) -> (Vec<OsString>, PathBuf) {
    let named = output.with_added_extension("named");
    let keeps = |argument: &&OsString| *argument != "-Wl,--strip-all" && *argument != "-s";
    let mut all: Vec<OsString> = arguments.iter().filter(keeps).cloned().collect();
    for argument in &mut all {
        if argument == output.as_os_str() {
            *argument = named.clone().into_os_string();
        }
    }
    (all, named)
}

/// The file that lld takes: functions of `inputs` in their order, one per line.
///
/// # Errors
/// An input cannot be read, or is neither an archive nor an object of this kind of system.
pub fn ordered(order: &Order, inputs: &[&Path]) -> Result<String> {
    let mut symbols = Vec::new();
    for input in inputs {
        let data = std::fs::read(input).with_context(|| format!("reading {}", input.display()))?;
        functions(&data, &mut symbols).with_context(|| format!("reading {}", input.display()))?;
    }
    let mut text = order.sort(symbols.iter().map(String::as_str)).join("\n");
    text.push('\n');
    Ok(text)
}

fn functions(data: &[u8], symbols: &mut Vec<String>) -> Result<()> {
    let Ok(archive) = ArchiveFile::parse(data) else {
        return functions_of(data, symbols);
    };
    for member in archive.members() {
        let member = member?;
        // The description of a crate lies beside its objects.
        if !member.name().ends_with(b".rmeta") {
            functions_of(member.data(data)?, symbols)?;
        }
    }
    Ok(())
}

fn functions_of(data: &[u8], symbols: &mut Vec<String>) -> Result<()> {
    let object = object::File::parse(data)?;
    for symbol in object.symbols() {
        if symbol.kind() == SymbolKind::Text && symbol.is_definition() {
            symbols.push(symbol.name()?.to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::{Call, named, ordered};
    use crate::order::Order;

    fn arguments(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_call_of_the_linker_is_read() {
        let all = arguments(
            "-m64 /a/daprd.o -Wl,-Bstatic /b/libx.rlib -lc -fuse-ld=lld -L /b -o /c/daprd-1.2 -Wl,-O1",
        );
        let call = Call::read(&all).expect("it makes a file");
        assert_eq!(call.output, Path::new("/c/daprd-1.2"));
        assert_eq!(
            call.inputs,
            [Path::new("/a/daprd.o"), Path::new("/b/libx.rlib")]
        );
        assert!(call.is_lld);
        let other = arguments("a.o -o b");
        assert!(!Call::read(&other).expect("it makes a file").is_lld);
        assert_eq!(Call::read(&arguments("--version")), None);
        assert_eq!(Call::read(&arguments("a.o -o")), None);
    }

    #[test]
    fn names_are_kept_beside_the_program() {
        let all = arguments("-Wl,--strip-all a.o -o /c/daprd-1.2 -Wl,-O1");
        let (kept, file) = named(&all, Path::new("/c/daprd-1.2"));
        assert_eq!(file, Path::new("/c/daprd-1.2.named"));
        assert_eq!(kept, arguments("a.o -o /c/daprd-1.2.named -Wl,-O1"));
    }

    #[test]
    fn functions_of_a_program_are_put_in_order() {
        // This very test is an object with functions.
        let own = std::env::current_exe().expect("it runs");
        let data = std::fs::read(&own).expect("it is there");
        let mut all = Vec::new();
        super::functions(&data, &mut all).expect("it is an object");
        let find = |part: &str| {
            all.iter()
                .find(|name| name.contains(part))
                .expect("this test has it")
        };
        let first = find("a_call_of_the_linker_is_read");
        let second = find("names_are_kept_beside_the_program");
        for order in [
            [first.as_str(), "absent", second],
            [second.as_str(), "absent", first],
        ] {
            let parsed = Order::parse(&Order::write(order)).expect("it was written");
            let text = ordered(&parsed, &[&own]).expect("it is an object");
            let at = |name: &str| text.lines().position(|line| line == name);
            assert!(
                at(order[0]).is_some() && at(order[0]) < at(order[2]),
                "{text}"
            );
            assert_eq!(at("absent"), None);
        }
    }

    #[test]
    fn what_is_no_object_is_named() {
        let folder = std::env::temp_dir().join(format!("layout-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for tests");
        let file = folder.join("text.o");
        std::fs::write(&file, "text").expect("it is written");
        let error = ordered(&Order::default(), &[&file]).expect_err("it is text");
        assert!(format!("{error:#}").contains("text.o"), "{error:#}");
        std::fs::remove_dir_all(&folder).expect("it was made above");
    }
}
