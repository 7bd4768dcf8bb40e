//! An API server that answers from a script: minimal, slow, broken or all of it.
//!
//! It holds any object under its path, remembers what was asked, and fails when it is told to: the next list, the
//! next watch, or the watches that are open. It checks no schema and knows no permission; there is no TLS.

mod answer;
mod collection;
mod discovery;
mod fault;
mod live;
mod object;
mod patch;
mod path;
mod record;
mod selector;
mod serve;
mod shared;
mod store;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

pub use discovery::Scope;
pub use fault::Fault;
pub use object::{Name, Resource};
pub use record::{Counts, Request, Verb};
pub use shared::Options;
pub use store::Versions;

use crate::condition::PAUSE;
use discovery::Kind;
use shared::Shared;
use store::Expect;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long the port may be taken after the server was stopped.
const PORT_LIMIT: Duration = Duration::from_secs(10);

/// A running server. Dropping it stops it and breaks its connections.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Never listens: it keeps the port ours while the server is stopped. Otherwise a client that tries again and again
    /// is given the port for its own end some time, and reaches itself.
    _port: TcpSocket,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

impl Server {
    /// Starts a server on a free port of loopback.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let port = bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = port.local_addr()?;
        let shared = Arc::new(Shared::new(options));
        let task = Mutex::new(Some(spawn(listen(address).await?, &shared)));
        Ok(Self {
            shared,
            address,
            _port: port,
            task,
        })
    }

    /// Stops answering and breaks all connections. Objects can still be changed.
    pub async fn stop(&self) {
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.abort();
            // It was aborted, so it ends with an error.
            drop(task.await);
        }
    }

    /// Answers again after [`Server::stop`], at the same address.
    pub async fn resume(&self) -> anyhow::Result<()> {
        self.stop().await;
        let listener = listen(self.address).await?;
        *self.task.lock() = Some(spawn(listener, &self.shared));
        Ok(())
    }

    /// For example `http://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Writes a kubeconfig for this server into `folder`; the token, if one is needed, stands in a file beside it.
    pub fn kubeconfig(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let mut user = json!({});
        if let Some(token) = &self.shared.options.token {
            std::fs::write(folder.join("token"), token)?;
            user = json!({"tokenFile": "token"});
        }
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "scripted",
            "clusters": [{"name": "scripted", "cluster": {"server": self.url()}}],
            "users": [{"name": "scripted", "user": user}],
            "contexts": [{"name": "scripted", "context": {"cluster": "scripted", "user": "scripted"}}],
        });
        let path = folder.join("kubeconfig");
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// Creates or replaces an object, whatever its version, and returns it as it is now. Its path follows from
    /// `apiVersion`, `kind` and `metadata`.
    pub fn put(&self, mut object: Value) -> Value {
        object::unset(&mut object, "resourceVersion");
        let resource = Resource::of(&object);
        let stored = self
            .shared
            .change(|store| store.write(&resource, object, Expect::Whatever));
        stored
            .map(|stored| stored.value.clone())
            .unwrap_or_default()
    }

    /// Deletes an object that has the `apiVersion`, `kind`, namespace and name of this one. Says whether it was there.
    pub fn delete(&self, object: &Value) -> bool {
        let (resource, name) = (Resource::of(object), Name::of(object));
        self.shared
            .change(|store| store.delete(&resource, &name))
            .is_some()
    }

    /// The current version of an object that has the `apiVersion`, `kind`, namespace and name of this one.
    pub fn get(&self, object: &Value) -> Option<Value> {
        let store = self.shared.store.lock();
        Some(
            store
                .get(&Resource::of(object), &Name::of(object))?
                .value
                .clone(),
        )
    }

    /// All objects of a kind, in order of namespace and name.
    pub fn objects(&self, resource: &Resource) -> Vec<Value> {
        let store = self.shared.store.lock();
        store
            .list(resource, "")
            .map(|(_, object)| object.value.clone())
            .collect()
    }

    /// Lets the next list that has no other fault yet fail.
    pub fn fail_list(&self, fault: Fault) {
        self.shared.faults.lock().lists.push_back(fault);
    }

    /// Lets the next watch that has no other fault yet fail.
    pub fn fail_watch(&self, fault: Fault) {
        self.shared.faults.lock().watches.push_back(fault);
    }

    /// Lets the watches that are open now fail.
    pub fn disturb(&self, fault: Fault) {
        self.shared.disturbed.send_replace(Some(fault));
    }

    /// Takes back all faults that no request met.
    pub fn calm(&self) {
        *self.shared.faults.lock() = fault::Faults::default();
    }

    /// Forgets the history of changes: a watch from an earlier version is told 410.
    pub fn compact(&self) {
        self.shared.change(store::Store::compact);
    }

    /// Lets the next page of every list answer 410.
    pub fn expire_pages(&self) {
        self.shared.pages.lock().clear();
    }

    /// Forgets every object, the history and the versions, like a server on a new disk.
    pub fn wipe(&self) {
        self.shared.change(store::Store::wipe);
    }

    /// Makes a kind answer 404, like one whose CRD is not installed, or brings it back.
    pub fn install(&self, plural: &str, installed: bool) {
        let mut absent = self.shared.absent.lock();
        if installed {
            absent.remove(plural);
        } else {
            absent.insert(plural.to_owned());
        }
    }

    /// Tells clients that ask for the kinds of the server of this one, too: those of every cluster are there already.
    pub fn define(&self, api_version: &str, kind: &str, scope: Scope) {
        let kind = Kind::new(api_version, kind, scope);
        self.shared.kinds.lock().insert(kind);
    }

    /// Answers every POST to `path` with what `handler` makes of its body: a status and a JSON document.
    pub fn on_post(
        &self,
        path: &str,
        handler: impl Fn(Value) -> (u16, Value) + Send + Sync + 'static,
    ) {
        self.shared
            .handlers
            .lock()
            .insert(path.to_owned(), Arc::new(handler));
    }

    /// The last requests, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.record.lock().requests.iter().cloned().collect()
    }

    /// How many requests there were.
    pub fn counts(&self) -> Counts {
        self.shared.record.lock().counts.clone()
    }

    /// How many requests of a verb went to a kind.
    pub fn count(&self, verb: Verb, plural: &str) -> usize {
        self.shared
            .record
            .lock()
            .counts
            .get(&(verb, plural.to_owned()))
            .copied()
            .unwrap_or_default()
    }

    /// How many watches of a path are open.
    pub fn open_watches(&self, path: &str) -> usize {
        self.shared
            .record
            .lock()
            .open
            .get(path)
            .map_or(0, |(now, _)| *now)
    }

    /// How many watches of a path were open at most at the same time. A client that drops one and opens the next may
    /// be seen with both for a moment.
    pub fn most_open_watches(&self, path: &str) -> usize {
        self.shared
            .record
            .lock()
            .open
            .get(path)
            .map_or(0, |(_, most)| *most)
    }
}

/// Takes a port without listening on it.
fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// A process that another test is just starting holds copies of our sockets until it runs its own program, also of one
/// that listened here before.
async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let end = Instant::now() + PORT_LIMIT;
    loop {
        match bind(address).and_then(|socket| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < end => {
                sleep(PAUSE).await;
            }
            Err(error) => return Err(error).context("no port for the scripted API server"),
        }
    }
}

/// Accepts connections; they end with the task that owns them.
fn spawn(listener: TcpListener, shared: &Arc<Shared>) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    // A client that gave up before it was accepted is no concern.
                    let Ok((socket, _)) = accepted else { continue };
                    // Events must not wait for more of them.
                    drop(socket.set_nodelay(true));
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move {
                        let service = service_fn(move |request| serve::serve(Arc::clone(&shared), request));
                        // Broken connections are part of the script.
                        drop(auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await);
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    })
}
