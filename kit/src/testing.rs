//! A binary under test: started with an empty environment, watched through its log, asked over HTTP, signalled.
//!
//! Everything waits for a condition and gives up after 20 s with a panic that shows the log so far.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long any wait may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Lines the log may be ahead of the test; a process that writes more waits.
const LINES: usize = 1024;

/// A running process.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    seen: Vec<String>,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit status; `None` when a signal killed it.
    pub code: Option<i32>,
    /// The lines it wrote to stdout.
    pub stdout: Vec<String>,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Ended {
    /// The last line on stdout. What is told by several threads comes in no certain order, see [`Ended::line`].
    pub fn last_line(&self) -> &str {
        self.stdout.last().map_or("", String::as_str)
    }

    /// The first line on stdout with this text, empty if there is none: other threads may say something after it.
    pub fn line(&self, text: &str) -> &str {
        let mut lines = self.stdout.iter();
        let found = lines.find(|line| line.contains(text));
        found.map_or("", String::as_str)
    }
}

impl Daemon {
    /// Starts `program` with these arguments and no environment but `variables`.
    pub fn start(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut stderr = child.stderr.take().expect("piped");
        let (sender, lines) = sync_channel(LINES);
        // Both threads end with the process, whose pipes they read.
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            drop(stderr.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        });
        Self {
            child,
            lines,
            stderr: Some(stderr),
            seen: Vec::new(),
        }
    }

    /// Runs `program` to its end.
    pub fn run(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
        Self::start(program, arguments, variables).ended()
    }

    /// The first line, also of those seen before, that contains `text`.
    pub fn line(&mut self, text: &str) -> String {
        if let Some(line) = self.seen.iter().find(|line| line.contains(text)) {
            return line.clone();
        }
        let deadline = Instant::now() + PATIENCE;
        while let Some(line) = self.next_line(deadline) {
            if line.contains(text) {
                return line;
            }
        }
        panic!(
            "the process ended without a line with {text:?}: {:#?}",
            self.seen
        )
    }

    /// The next line; `None` at the end of the process.
    fn next_line(&mut self, deadline: Instant) -> Option<String> {
        match self
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            Ok(line) => {
                self.seen.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("nothing happened for {PATIENCE:?}: {:#?}", self.seen)
            }
        }
    }

    /// Where the `healthz` or `metrics` server listens, taken from the log, as an address on the loopback interface.
    pub fn address(&mut self, server: &str) -> SocketAddr {
        let line = self.line(&format!("{server} server is listening"));
        let address = line
            .split("address=")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .expect("an address");
        let port = address
            .trim_matches('"')
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .expect("a port");
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        // The shell's own `kill`: a safe call without a crate, present wherever tests run.
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.child.id())])
            .status();
        assert!(sent.expect("a shell").success(), "the process is gone");
    }

    /// Waits for the end.
    pub fn ended(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        while self.next_line(deadline).is_some() {}
        let code = self.child.wait().expect("it was started").code();
        let stderr = self
            .stderr
            .take()
            .expect("taken once")
            .join()
            .expect("the reader does not panic");
        Ended {
            code,
            stdout: std::mem::take(&mut self.seen),
            stderr,
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails when it has ended already, which is fine.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Status and body of one request without a body.
pub fn request(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a valid timeout");
    let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("the server reads");
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .expect("the server answers in UTF-8");
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("a status line");
    (
        status,
        text.split_once("\r\n\r\n").expect("a head").1.to_owned(),
    )
}

/// A connection with half a request: it holds up a graceful stop until its deadline.
pub fn half_a_request(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream
        .write_all(b"GET /healthz HT")
        .expect("the server reads");
    // Connections are accepted in order: once a later one is answered, this one was taken.
    request(address, "GET", "/healthz");
    stream
}
