//! What this host is called and reached at, and the stable port of the API between sidecars.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// First port tried when none is configured.
const FIRST_PORT: u16 = 47300;

/// The address other sidecars reach this host at: the one given, else the address packets would leave from.
pub fn address(given: Option<&str>) -> String {
    if let Some(address) = given {
        return address.to_owned();
    }
    // Connecting a UDP socket sends nothing; it only asks the routing table. Both are documentation addresses.
    ["192.0.2.1:80", "[2001:db8::1]:80"]
        .iter()
        .find_map(|target| outgoing(target))
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
        .to_string()
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
    fn translator_addresses_are_passed_over() {
        assert!(is_transition("192.0.0.2".parse().expect("address")));
        assert!(!is_transition("192.0.1.2".parse().expect("address")));
    }
}
