//! What this host is called and reached at, and the stable port of the API between sidecars.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// First port tried when none is configured.
const FIRST_PORT: u16 = 47300;

/// Addresses of the interfaces of this host.
const IPV4_ADDRESSES: &str = "/proc/net/fib_trie";
const IPV6_ADDRESSES: &str = "/proc/net/if_inet6";

/// The address other sidecars reach this host at: the one given, else the address packets would leave from, else, on a
/// host without a way out, that of an interface.
pub fn address(given: Option<&str>) -> String {
    if let Some(address) = given {
        return address.to_owned();
    }
    // Connecting a UDP socket sends nothing; it only asks the routing table. Both are documentation addresses.
    ["192.0.2.1:80", "[2001:db8::1]:80"]
        .iter()
        .find_map(|target| outgoing(target))
        .or_else(of_interface)
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
        .to_string()
}

fn of_interface() -> Option<IpAddr> {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let is_own = |address: &Ipv4Addr| {
        !address.is_loopback() && !address.is_link_local() && !is_transition((*address).into())
    };
    let v4 = ipv4_addresses(&read(IPV4_ADDRESSES))
        .find(is_own)
        .map(IpAddr::V4);
    v4.or_else(|| ipv6_addresses(&read(IPV6_ADDRESSES)).next().map(IpAddr::V6))
}

/// Local addresses in the kernel's routing table: an address in one line, `/32 host LOCAL` in the next.
fn ipv4_addresses(table: &str) -> impl Iterator<Item = Ipv4Addr> {
    let lines = table.lines().map(str::trim);
    lines.clone().zip(lines.skip(1)).filter_map(|(line, next)| {
        let address = line.strip_prefix("|-- ")?.parse().ok()?;
        (next == "/32 host LOCAL").then_some(address)
    })
}

/// Addresses of global scope: digits, index, length of the prefix, scope, flags and name of the interface.
fn ipv6_addresses(table: &str) -> impl Iterator<Item = Ipv6Addr> {
    table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let digits = fields.next()?;
        let is_global = fields.nth(2)? == "00";
        let bits = u128::from_str_radix(digits, 16).ok()?;
        is_global.then(|| Ipv6Addr::from_bits(bits))
    })
}

fn outgoing(target: &str) -> Option<IpAddr> {
    let target: SocketAddr = target.parse().ok()?;
    let any: SocketAddr = if target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    }
    .parse()
    .ok()?;
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !is_transition(address)).then_some(address)
}

/// 192.0.0.0/29 is handed out by translators (DS-Lite) and reaches nobody else.
fn is_transition(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[..3] == [192, 0, 0] && v4.octets()[3] < 8)
}

/// The name of this host.
pub fn name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "localhost".to_owned())
}

/// The port an application keeps across restarts, computed from who and where it is.
pub fn stable_port(app_id: &str, folder: &str, uid: u32, hostname: &str) -> u16 {
    let text = format!("{app_id}|{folder}|{uid}|{hostname}");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let offset = match digest.as_ref() {
        [low, high, ..] => u16::from(*low) | (u16::from(*high) << 8),
        _ => 0,
    };
    FIRST_PORT + offset % (u16::MAX - FIRST_PORT)
}

/// The numeric user id of this process.
pub fn uid() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").map_or(0, |metadata| metadata.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_address_wins() {
        assert_eq!(address(Some("10.1.2.3")), "10.1.2.3");
        assert!(address(None).parse::<IpAddr>().is_ok());
    }

    #[test]
    fn ports_are_stable_and_in_range() {
        let port = stable_port("shop", "/srv", 1000, "host");
        assert_eq!(port, stable_port("shop", "/srv", 1000, "host"));
        assert_ne!(port, stable_port("shop", "/srv", 1000, "other"));
        for i in 0..1000 {
            assert!(stable_port(&i.to_string(), "/", 0, "h") >= FIRST_PORT);
        }
    }

    #[test]
    fn addresses_of_interfaces_are_read_from_the_kernels_tables() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n\
                     Local:\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.0.0.7\n        /32 host LOCAL\n\
                     \x20    |-- 10.0.0.255\n        /32 link BROADCAST\n";
        let found: Vec<_> = ipv4_addresses(table).map(|it| it.to_string()).collect();
        assert_eq!(found, ["127.0.0.1", "10.0.0.7"]);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe800000000000000042acfffe110002 02 40 20 80     eth0\n\
                     fd000000000000000000000000000007 02 40 00 80     eth0\n";
        let found: Vec<_> = ipv6_addresses(table).map(|it| it.to_string()).collect();
        assert_eq!(found, ["fd00::7"]);
        for table in ["", "x", "|-- 1.2.3", "zz 1 2 00 3 eth0"] {
            assert_eq!(
                ipv4_addresses(table).count() + ipv6_addresses(table).count(),
                0
            );
        }
    }

    #[test]
    fn translator_addresses_are_passed_over() {
        assert!(is_transition("192.0.0.2".parse().expect("address")));
        assert!(!is_transition("192.0.1.2".parse().expect("address")));
    }
}
