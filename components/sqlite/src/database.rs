//! One database file: a thread that writes, and one that reads beside it.
//!
//! SQLite blocks, so each connection has a thread of its own behind a bounded queue. Writes that wait
//! together share one transaction (each in a savepoint) and so one flush to disk; nobody hears of success
//! before that flush. With the write-ahead log, reads never wait for writes.

use std::time::Duration;

use dapr_components_core::{Error, ErrorKind};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use crate::connection_string::Target;
use crate::error::{failed, failed_to, not_opened};
use crate::settings::{Settings, Wal};

/// Calls that may wait for a thread; the next ones wait in their own tasks.
const QUEUE: usize = 256;

/// Writes that share one transaction: a large part of the gain, a small part of the latency.
const BATCH: usize = 64;

type Write = Box<dyn FnOnce(&Connection) -> Result<(), Error> + Send>;
type Read = Box<dyn FnOnce(&Connection) + Send>;
type Reply = oneshot::Sender<Result<(), Error>>;

enum Job {
    Write(Write, Reply),
    Read(Read),
    Close(oneshot::Sender<()>),
}

/// A handle on the two threads, which end when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct Database {
    writer: mpsc::Sender<Job>,
    /// `None` for a database in memory, which has one connection only.
    reader: Option<mpsc::Sender<Job>>,
    timeout: Duration,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the file, lets `prepare` make its tables, and starts the threads.
    pub(crate) async fn open(
        settings: &Settings,
        prepare: impl FnOnce(&Connection) -> Result<(), Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let settings = settings.clone();
        let timeout = settings.timeout;
        let opening = tokio::task::spawn_blocking(move || connect(&settings, prepare));
        let (writer, reader) = opening
            .await
            .map_err(|error| stopped().with_source(error))??;
        Ok(Self {
            writer: start("sqlite-writer", writer)?,
            reader: reader
                .map(|reader| start("sqlite-reader", reader))
                .transpose()?,
            timeout,
        })
    }

    /// Runs `write` in a transaction: when this returns `Ok`, its changes are on disk, else nowhere.
    pub(crate) async fn write(
        &self,
        write: impl FnOnce(&Connection) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (reply, result) = oneshot::channel();
        self.run(&self.writer, Job::Write(Box::new(write), reply), result)
            .await
    }

    /// Runs `read` on what has been committed.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, result) = oneshot::channel();
        let read = move |connection: &Connection| {
            if !reply.is_closed() {
                drop(reply.send(read(connection))); // The caller may have given up meanwhile.
            }
        };
        self.run(
            self.reader.as_ref().unwrap_or(&self.writer),
            Job::Read(Box::new(read)),
            result,
        )
        .await
    }

    async fn run<T>(
        &self,
        queue: &mpsc::Sender<Job>,
        job: Job,
        result: oneshot::Receiver<Result<T, Error>>,
    ) -> Result<T, Error> {
        let call = async {
            queue.send(job).await.map_err(|_| stopped())?;
            result.await.map_err(|_| stopped())?
        };
        let late = |_| Error::new(ErrorKind::Unavailable, "context deadline exceeded");
        tokio::time::timeout(self.timeout, call)
            .await
            .map_err(late)?
    }

    /// Finishes what is queued and closes the connections.
    pub(crate) async fn close(&self) {
        for queue in self.reader.iter().chain([&self.writer]) {
            let (reply, closed) = oneshot::channel();
            if queue.send(Job::Close(reply)).await.is_ok() {
                drop(closed.await); // The thread answers by ending; there is no message.
            }
        }
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the database is closed")
}

type Connections = (Connection, Option<Connection>);

fn connect(
    settings: &Settings,
    prepare: impl FnOnce(&Connection) -> Result<(), Error>,
) -> Result<Connections, Error> {
    let writer = open(settings)?;
    match &settings.connection.target {
        Target::Memory => {
            set(&writer, "journal_mode = MEMORY")?;
            prepare(&writer)?;
            return Ok((writer, None));
        }
        Target::ReadOnly(_) => {}
        Target::ReadWrite(_) => {
            set_journal_mode(&writer, settings.wal)?;
            prepare(&writer)?;
        }
    }
    let reader = open(settings)?;
    set(&reader, "query_only = ON")?;
    Ok((writer, Some(reader)))
}

fn open(settings: &Settings) -> Result<Connection, Error> {
    let shared = OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let create = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = match &settings.connection.target {
        Target::Memory => Connection::open_in_memory(),
        Target::ReadWrite(uri) => Connection::open_with_flags(uri, shared | create),
        Target::ReadOnly(uri) => {
            Connection::open_with_flags(uri, shared | OpenFlags::SQLITE_OPEN_READ_ONLY)
        }
    }
    .map_err(not_opened)?;
    connection
        .busy_timeout(settings.busy_timeout)
        .map_err(not_opened)?;
    // The first statement is what touches the file.
    connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
        .map_err(not_opened)?;
    // Keys are case-sensitive, so patterns over them are too.
    set(&connection, "case_sensitive_like = ON")?;
    for pragma in &settings.connection.pragmas {
        set(&connection, pragma)?;
    }
    Ok(connection)
}

/// How often the journal mode is tried to change while other sidecars do the same.
const ATTEMPTS: usize = 10;

/// Changing the mode does not wait for locks, so an attempt that meets one waits by taking the lock itself.
fn set_journal_mode(connection: &Connection, wal: Wal) -> Result<(), Error> {
    let pragma = match wal {
        Wal::Enabled => "journal_mode = WAL",
        Wal::Disabled => "journal_mode = DELETE",
    };
    for _ in 1..ATTEMPTS {
        match set(connection, pragma) {
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                connection
                    .execute_batch("BEGIN EXCLUSIVE; COMMIT")
                    .map_err(not_opened)?;
            }
            result => return result,
        }
    }
    set(connection, pragma)
}

/// Runs a pragma and ignores the row that some of them answer with.
fn set(connection: &Connection, pragma: &str) -> Result<(), Error> {
    let run = || -> rusqlite::Result<()> {
        let mut statement = connection.prepare(&format!("PRAGMA {pragma}"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    };
    run().map_err(|error| failed_to(&format!("set pragma {pragma}"), error))
}

fn start(name: &str, connection: Connection) -> Result<mpsc::Sender<Job>, Error> {
    let (sender, queue) = mpsc::channel(QUEUE);
    // Detached, but not without an owner: the thread ends with the queue, and `close` waits for it.
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || serve(connection, queue))
        .map_err(|error| {
            Error::new(
                ErrorKind::Internal,
                format!("failed to start thread {name}: {error}"),
            )
            .with_source(error)
        })?;
    Ok(sender)
}

fn serve(connection: Connection, mut queue: mpsc::Receiver<Job>) {
    let mut next = None;
    while let Some(job) = next.take().or_else(|| queue.blocking_recv()) {
        match job {
            Job::Read(read) => read(&connection),
            Job::Write(write, reply) => {
                let mut batch = vec![(write, reply)];
                while batch.len() < BATCH && next.is_none() {
                    match queue.try_recv() {
                        Ok(Job::Write(write, reply)) => batch.push((write, reply)),
                        Ok(other) => next = Some(other),
                        Err(_) => break,
                    }
                }
                commit(&connection, batch);
            }
            Job::Close(closed) => {
                if let Err((_, error)) = connection.close() {
                    tracing::warn!(%error, "closing the database failed");
                }
                // Dropping it is the answer: whoever waits sees the channel end.
                drop(closed);
                return;
            }
        }
    }
}

/// Runs a batch in one transaction and tells each writer how its part ended.
fn commit(connection: &Connection, batch: Vec<(Write, Reply)>) {
    if let Err(error) = execute(connection, "BEGIN IMMEDIATE") {
        let error = failed(error);
        for (_, reply) in batch {
            answer(reply, Err(copy(&error)));
        }
        return;
    }
    let is_alone = batch.len() == 1;
    let mut results = Vec::with_capacity(batch.len());
    for (write, reply) in batch {
        if reply.is_closed() {
            continue; // The caller has given up; nothing is done for it.
        }
        let result = if connection.is_autocommit() {
            Err(Error::new(
                ErrorKind::Unavailable,
                "the transaction was rolled back by an earlier error",
            ))
        } else if is_alone {
            write(connection)
        } else {
            in_savepoint(connection, write)
        };
        results.push((reply, result));
    }
    let outcome = finish(connection, results.iter().any(|(_, result)| result.is_ok()));
    for (reply, result) in results {
        let result = match (&outcome, result) {
            (Err(error), Ok(())) => Err(copy(error)),
            (_, result) => result,
        };
        answer(reply, result);
    }
}

/// Commits if there is something to keep. Grave errors (a full disk) have ended the transaction already.
fn finish(connection: &Connection, has_success: bool) -> Result<(), Error> {
    if connection.is_autocommit() {
        return Err(Error::new(
            ErrorKind::Unavailable,
            "the transaction was rolled back",
        ));
    }
    let result = match has_success {
        true => execute(connection, "COMMIT").map_err(failed),
        false => Ok(()),
    };
    if !connection.is_autocommit()
        && let Err(error) = execute(connection, "ROLLBACK")
    {
        tracing::warn!(%error, "rollback failed");
    }
    result
}

fn in_savepoint(connection: &Connection, write: Write) -> Result<(), Error> {
    execute(connection, "SAVEPOINT part").map_err(failed)?;
    match write(connection) {
        Ok(()) => execute(connection, "RELEASE part").map_err(failed),
        Err(error) => {
            let undone = execute(connection, "ROLLBACK TO part")
                .and_then(|()| execute(connection, "RELEASE part"));
            // Where undoing fails, the whole transaction has been rolled back, and `finish` sees that.
            if let Err(cause) = undone {
                tracing::debug!(%cause, "the savepoint is gone with its transaction");
            }
            Err(error)
        }
    }
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(|_| ())
}

fn answer(reply: Reply, result: Result<(), Error>) {
    drop(reply.send(result)); // The caller may have given up meanwhile.
}

fn copy(error: &Error) -> Error {
    Error::new(error.kind(), error.to_string())
}
