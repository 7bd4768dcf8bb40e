//! A program that is linked by the linker of images.

use std::path::Path;
use std::process::{Command, Output};

use object::{Object as _, ObjectSymbol as _};

const PROGRAM: &str = "\
#[inline(never)]
fn first(number: u64) -> u64 { std::hint::black_box(number) + 1 }
#[inline(never)]
fn second(number: u64) -> u64 { std::hint::black_box(number) * 2 }
#[inline(never)]
fn third(number: u64) -> u64 { std::hint::black_box(number) - 3 }
fn main() { println!(\"{}\", first(second(third(10)))); }
";

/// Names of the three functions as the order has them: paths, whatever the compiler puts around them.
const FUNCTIONS: [&str; 3] = ["first", "second", "third"];

fn compile(folder: &Path, order: &Path, bin_name: Option<&str>) -> Output {
    let mut rustc = Command::new("rustc");
    rustc
        .current_dir(folder)
        .args([
            "--edition=2024",
            "-O",
            "-Ccodegen-units=1",
            "-Cstrip=symbols",
        ])
        .args(["-Csymbol-mangling-version=v0", "program.rs"])
        .arg(format!("-Clinker={}", env!("CARGO_BIN_EXE_layout")))
        .env("LAYOUT_ORDER", order)
        .env_remove("CARGO_BIN_NAME");
    if let Some(name) = bin_name {
        rustc.env("CARGO_BIN_NAME", name);
    }
    rustc.output().expect("there is a compiler where tests run")
}

/// Where the functions of the program lie.
fn addresses(named: &Path) -> [u64; 3] {
    let data = std::fs::read(named).expect("it lies beside the program");
    let object = object::File::parse(&*data).expect("it is a program");
    FUNCTIONS.map(|function| {
        let symbol = object.symbols().find(|symbol| {
            let name = symbol.name().unwrap_or_default();
            format!("{:#}", rustc_demangle::demangle(name)) == format!("program::{function}")
        });
        symbol.expect("it has this function").address()
    })
}

#[test]
fn functions_lie_in_the_order_of_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("program.rs"), PROGRAM).expect("it is written");
    for order in [[2, 0, 1], [1, 2, 0]] {
        // As `layout order` writes them: from names that valgrind saw.
        let mut profile = String::new();
        for (number, index) in order.iter().enumerate() {
            let name = FUNCTIONS[*index];
            profile.push_str(&format!(
                "fn=({number}) _RNvCsg_7program{}{name}\n",
                name.len()
            ));
        }
        std::fs::write(at("start.1"), &profile).expect("it is written");
        std::fs::write(at("steady.1"), "").expect("it is written");
        let written = Command::new(env!("CARGO_BIN_EXE_layout"))
            .args(["order", "20"])
            .arg(folder.path())
            .output()
            .expect("it runs");
        assert!(written.status.success(), "{written:?}");
        std::fs::write(at("order"), written.stdout).expect("it is written");

        let compiled = compile(folder.path(), &at("order"), Some("program"));
        assert!(compiled.status.success(), "{compiled:?}");
        let ran = Command::new(at("program")).output().expect("it runs");
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "15\n", "{ran:?}");
        if !at("program.named").exists() {
            // The compiler does not take lld for this machine; images ask for it, where there is one.
            println!("skipped: the linker is not lld");
            return;
        }
        let found = addresses(&at("program.named"));
        assert!(
            order.is_sorted_by_key(|index| found[*index]),
            "{order:?} {found:x?}"
        );
    }
}

#[test]
fn a_file_that_is_no_order_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let order = folder.path().join("order");
    std::fs::write(folder.path().join("program.rs"), PROGRAM).expect("it is written");
    std::fs::write(&order, "# an order\nmemcpy\n").expect("it is written");
    // What is no program, as a script that runs while others are compiled, needs none.
    let compiled = compile(folder.path(), &order, None);
    assert!(compiled.status.success(), "{compiled:?}");
    if !cfg!(target_arch = "x86_64") {
        println!("skipped: the linker may not be lld");
        return;
    }
    let compiled = compile(folder.path(), &order, Some("program"));
    assert!(!compiled.status.success());
    let text = String::from_utf8_lossy(&compiled.stderr).into_owned();
    assert!(
        text.contains(&*order.to_string_lossy()) && text.contains("line 2"),
        "{text}"
    );
}
