//! The `process_*` metrics, read from `/proc/self` at each scrape.
//!
//! What the system does not tell (no `/proc`, a locked-down container) is left out, not reported as zero.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};

/// What `/proc` counts processor time in: USER_HZ, 100 on every architecture Linux has kept.
const TICKS_PER_SECOND: f64 = 100.0;

/// Name, help and kind of one metric.
type Spec = (&'static str, &'static str, MetricType);

const CPU: Spec = (
    "process_cpu_seconds_total",
    "Total user and system CPU time spent in seconds.",
    MetricType::COUNTER,
);
const MAX_FDS: Spec = (
    "process_max_fds",
    "Maximum number of open file descriptors.",
    MetricType::GAUGE,
);
const OPEN_FDS: Spec = (
    "process_open_fds",
    "Number of open file descriptors.",
    MetricType::GAUGE,
);
const RECEIVED: Spec = (
    "process_network_receive_bytes_total",
    "Number of bytes received by the process over the network.",
    MetricType::COUNTER,
);
const SENT: Spec = (
    "process_network_transmit_bytes_total",
    "Number of bytes sent by the process over the network.",
    MetricType::COUNTER,
);
const RESIDENT: Spec = (
    "process_resident_memory_bytes",
    "Resident memory size in bytes.",
    MetricType::GAUGE,
);
const START: Spec = (
    "process_start_time_seconds",
    "Start time of the process since unix epoch in seconds.",
    MetricType::GAUGE,
);
const VIRTUAL: Spec = (
    "process_virtual_memory_bytes",
    "Virtual memory size in bytes.",
    MetricType::GAUGE,
);
const MAX_VIRTUAL: Spec = (
    "process_virtual_memory_max_bytes",
    "Maximum amount of virtual memory available in bytes.",
    MetricType::GAUGE,
);

/// Collects the metrics of the running process.
pub(super) struct Process {
    descriptions: Vec<Desc>,
}

impl Process {
    pub(super) fn new() -> Self {
        let specs = [
            CPU,
            MAX_FDS,
            OPEN_FDS,
            RECEIVED,
            SENT,
            RESIDENT,
            START,
            VIRTUAL,
            MAX_VIRTUAL,
        ];
        let describe = |(name, help, _): Spec| {
            Desc::new(
                name.to_owned(),
                help.to_owned(),
                Vec::new(),
                Default::default(),
            )
            .expect("names and help texts are constant and valid")
        };
        Self {
            descriptions: specs.into_iter().map(describe).collect(),
        }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let read =
            |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let (stat, status, limits) = (read("stat"), read("status"), read("limits"));
        let octets = octets(&read("net/netstat"));
        [
            (CPU, cpu_seconds(&stat)),
            (MAX_FDS, limit(&limits, "Max open files")),
            (OPEN_FDS, open_files()),
            (RECEIVED, octets.map(|(received, _)| received)),
            (SENT, octets.map(|(_, sent)| sent)),
            (RESIDENT, kilobytes(&status, "VmRSS:")),
            (START, start_seconds(&stat)),
            (VIRTUAL, kilobytes(&status, "VmSize:")),
            (MAX_VIRTUAL, limit(&limits, "Max address space")),
        ]
        .into_iter()
        .filter_map(|(spec, value)| Some(family(spec, value?)))
        .collect()
    }
}

fn family((name, help, kind): Spec, value: f64) -> MetricFamily {
    let mut metric = Metric::default();
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(vec![metric]);
    family
}

/// A field of `/proc/self/stat` by its number in proc(5); the command in parentheses may hold anything.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command
        .split_ascii_whitespace()
        .nth(number.checked_sub(3)?)?
        .parse()
        .ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_seconds(stat: &str) -> Option<f64> {
    let since_boot = stat_field(stat, 22)? / TICKS_PER_SECOND;
    // `/proc/stat` is large on big machines, `/proc/uptime` is two numbers; both clocks agree.
    let uptime: f64 = fs::read_to_string("/proc/uptime")
        .ok()?
        .split(' ')
        .next()?
        .parse()
        .ok()?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()?
        .as_secs_f64();
    Some(((now - uptime + since_boot) * TICKS_PER_SECOND).round() / TICKS_PER_SECOND)
}

fn kilobytes(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kilobytes: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024.0)
}

/// A soft limit; one that is not set is the largest 64-bit number, as the system itself has it.
fn limit(limits: &str, name: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX as f64),
        soft => soft.parse().ok(),
    }
}

fn open_files() -> Option<f64> {
    // The directory handle of this very listing is one of the entries.
    Some(
        fs::read_dir("/proc/self/fd")
            .ok()?
            .count()
            .saturating_sub(1) as f64,
    )
}

/// Received and sent bytes of the network namespace, from the two `IpExt:` lines: names, then values.
fn octets(netstat: &str) -> Option<(f64, f64)> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("IpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |wanted: &str| {
        names
            .split(' ')
            .zip(values.split(' '))
            .find(|(name, _)| *name == wanted)?
            .1
            .parse::<f64>()
            .ok()
    };
    Some((value("InOctets")?, value("OutOctets")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stat_past_an_evil_command_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 4200 999 1";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(stat_field(stat, 22), Some(4200.0));
        assert_eq!(cpu_seconds(""), None);
        assert_eq!(cpu_seconds("7 (a) S"), None);
    }

    #[test]
    fn reads_status_limits_and_netstat() {
        let status = "Name:\tx\nVmSize:\t    3060 kB\nVmRSS:\t    1676 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(1676.0 * 1024.0));
        assert_eq!(kilobytes(status, "VmSwap:"), None);
        let limits = "Max open files            20000                40000                files     \n\
                      Max address space         unlimited            unlimited            bytes     \n";
        assert_eq!(limit(limits, "Max open files"), Some(20000.0));
        assert_eq!(limit(limits, "Max address space"), Some(u64::MAX as f64));
        assert_eq!(limit("", "Max open files"), None);
        let netstat =
            "TcpExt: A\nTcpExt: 1\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 15 39\n";
        assert_eq!(octets(netstat), Some((15.0, 39.0)));
        assert_eq!(octets("IpExt: InOctets\n"), None);
    }

    #[test]
    fn this_process_has_every_metric() {
        let families = Process::new().collect();
        let names: Vec<&str> = families.iter().map(MetricFamily::name).collect();
        assert_eq!(
            names,
            [
                CPU.0,
                MAX_FDS.0,
                OPEN_FDS.0,
                RECEIVED.0,
                SENT.0,
                RESIDENT.0,
                START.0,
                VIRTUAL.0,
                MAX_VIRTUAL.0
            ]
        );
        let start = families[6].get_metric()[0].get_gauge().get_value();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs_f64();
        assert!((now - 3600.0..=now + 1.0).contains(&start), "{start} {now}");
    }
}
