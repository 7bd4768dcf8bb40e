//! What a process has used, from `/proc`.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// From a start, or the end of a burst, until memory is looked at. It does not change any more after this, so a minute
/// would show the same.
pub const SETTLE: Duration = Duration::from_secs(10);

/// Clock ticks per second in `/proc/<pid>/stat`: 100 on every Linux we run on (`getconf CLK_TCK`).
const TICKS_PER_SECOND: u64 = 100;

/// User and system time used so far.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).context("reading process times")?;
    let ticks = parse_ticks(&stat).context("/proc/<pid>/stat has an unknown form")?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Resident memory in bytes.
pub fn rss(pid: u32) -> Result<u64> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).context("reading process memory")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kilobytes: u64 = line
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .context("VmRSS is no number")?;
    Ok(kilobytes * 1024)
}

/// utime + stime; the command before them may hold blanks and parentheses.
fn parse_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_behind_any_command() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 4 0 100 1 1";
        assert_eq!(parse_ticks(stat), Some(12));
        assert_eq!(parse_ticks("42 (a"), None);
    }
}
