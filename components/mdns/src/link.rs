//! A socket on one interface for one family of addresses, joined to the multicast group.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::interfaces::Interface;

/// The port of multicast DNS.
pub(crate) const PORT: u16 = 5353;

const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// Which addresses a link uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

/// A socket and the group it sends to.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) socket: UdpSocket,
    pub(crate) group: SocketAddr,
}

impl Link {
    /// Opens the socket; other programs on this host may have the same port.
    pub(crate) fn open(interface: &Interface, family: Family) -> io::Result<Self> {
        let index = match interface {
            Interface::Device { index, .. } => *index,
            Interface::Default | Interface::Loopback => 0,
        };
        let (domain, group) = match family {
            Family::V4 => (Domain::IPV4, SocketAddr::from((GROUP_V4, PORT))),
            Family::V6 => (
                Domain::IPV6,
                SocketAddr::V6(SocketAddrV6::new(GROUP_V6, PORT, 0, index)),
            ),
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        #[cfg(unix)]
        socket.set_reuse_port(true)?;
        if family == Family::V6 {
            socket.set_only_v6(true)?;
        }
        bind_to_device(&socket, interface);
        bind(&socket, group)?;
        match family {
            Family::V4 => join_v4(&socket, interface, index)?,
            Family::V6 => join_v6(&socket, index)?,
        }
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            group,
        })
    }
}

/// To the group's address where the system takes that: then packets for one host only, which other
/// programs on the port may wait for, do not end up here.
fn bind(socket: &Socket, group: SocketAddr) -> io::Result<()> {
    socket.bind(&group.into()).or_else(|_| {
        let any = match group {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)),
        };
        socket.bind(&any.into())
    })
}

/// Sends and receives on this interface only, with or without a route to the group.
fn bind_to_device(socket: &Socket, interface: &Interface) {
    #[cfg(target_os = "linux")]
    if let Interface::Device { name, .. } = interface {
        // Old kernels want a privilege for it. Without it the system picks where packets leave, as below.
        if let Err(error) = socket.bind_device(Some(name.as_bytes())) {
            tracing::debug!(name, %error, "cannot bind an mDNS socket to its interface");
        }
    }
    #[cfg(not(target_os = "linux"))]
    drop((socket, interface));
}

fn join_v4(socket: &Socket, interface: &Interface, index: u32) -> io::Result<()> {
    if *interface == Interface::Loopback {
        socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST)?;
        socket.join_multicast_v4(&GROUP_V4, &Ipv4Addr::LOCALHOST)?;
    } else {
        socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(index))?;
    }
    socket.set_multicast_loop_v4(true)?;
    socket.set_multicast_ttl_v4(255)
}

fn join_v6(socket: &Socket, index: u32) -> io::Result<()> {
    socket.join_multicast_v6(&GROUP_V6, index)?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_loop_v6(true)?;
    socket.set_multicast_hops_v6(255)
}
