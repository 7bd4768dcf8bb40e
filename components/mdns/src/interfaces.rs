//! The network interfaces to speak on.

use std::path::Path;

/// More than any host needs; a host full of container bridges must not open sockets without end.
const MAX: usize = 64;

const UP: u32 = 0x1;
const LOOPBACK: u32 = 0x8;
const MULTICAST: u32 = 0x1000;

/// Where packets go out and come in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Interface {
    /// A known interface.
    Device { index: u32, name: String },
    /// The one the system picks, where interfaces cannot be listed.
    Default,
    /// The loopback interface, where interfaces cannot be listed.
    Loopback,
}

/// All interfaces that are up and take multicast, and loopback in any case, so that sidecars of one host
/// find each other without a network.
pub(crate) fn list() -> Vec<Interface> {
    let found = read(Path::new("/sys/class/net"));
    if found.is_empty() {
        vec![Interface::Default, Interface::Loopback]
    } else {
        found
    }
}

fn read(folder: &Path) -> Vec<Interface> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .filter_map(|entry| interface(&entry.ok()?.path()))
        .collect();
    found.sort();
    found.truncate(MAX);
    found
}

fn interface(folder: &Path) -> Option<Interface> {
    let text = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
    let flags = u32::from_str_radix(text("flags")?.trim().trim_start_matches("0x"), 16).ok()?;
    if flags & UP == 0 || flags & (MULTICAST | LOOPBACK) == 0 {
        return None;
    }
    let index = text("ifindex")?.trim().parse().ok()?;
    Some(Interface::Device {
        index,
        name: folder.file_name()?.to_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_that_are_up_and_take_multicast_count() {
        let folder =
            std::env::temp_dir().join(format!("dapr-mdns-interfaces-{}", std::process::id()));
        let files = [
            ("lo", "1", "0x9"),
            ("eth0", "4", "0x1003"),
            ("down", "5", "0x1002"),
            ("tun", "6", "0x91"),
            ("odd", "x", "0x1003"),
        ];
        for (name, index, flags) in files {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).expect("folder");
            std::fs::write(path.join("ifindex"), format!("{index}\n")).expect("file");
            std::fs::write(path.join("flags"), format!("{flags}\n")).expect("file");
        }
        let found = read(&folder);
        std::fs::remove_dir_all(&folder).expect("removed");
        let device = |index, name: &str| Interface::Device {
            index,
            name: name.to_owned(),
        };
        assert_eq!(found, [device(1, "lo"), device(4, "eth0")]);
        assert_eq!(read(Path::new("/no/such/folder")), []);
    }
}
