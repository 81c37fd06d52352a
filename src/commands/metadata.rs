//! `export` and `import`: what an installation consists of, as JSON.

use std::fmt::Write as _;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context, anyhow};
use openhim_node::app::moving::{self, Imported, MigrationError};
use serde_json::{Map, Value};
use similar::TextDiff;

use crate::cli::{ExportArgs, ImportArgs};
use crate::failure::Failure;

/// Bytes of an export that are read, at most.
const LARGEST: u64 = 512 << 20;
/// Fields that nobody should read over a shoulder or in a log.
const SECRETS: [&str; 10] = [
    "key",
    "passphrase",
    "password",
    "passwordHash",
    "passwordSalt",
    "customTokenID",
    "token",
    "accessToken",
    // Of a login at a provider.
    "tokens",
    // Settings of a mediator, of which any may be a password.
    "config",
];

/// What stands for a secret tells whether it changes, and nothing else: the same one looks different the next time.
static MARKS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Writes everything.
///
/// # Errors
/// The store cannot be read, the file cannot be written.
pub(super) fn export(args: &ExportArgs) -> Result<(), Failure> {
    let store = super::store_of(&args.store)?;
    let exported = block_on(moving::export(&store))?.map_err(failure)?;
    let mut text = serde_json::to_string_pretty(&exported).context("cannot write JSON")?;
    text.push('\n');
    let Some(file) = &args.file else {
        return super::print(text.as_bytes());
    };
    Ok(put(file, text.as_bytes()).with_context(|| format!("cannot write {}", file.display()))?)
}

/// Writes a file that only its owner may read, all of it or nothing, whatever stood there before.
fn put(path: &Path, text: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(text)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Brings a file's documents into the store, or shows what that would change.
///
/// # Errors
/// The file or the store cannot be used, or some documents cannot be imported.
pub(super) fn import(args: &ImportArgs) -> Result<(), Failure> {
    let kinds = read(&args.file).map_err(|error| Failure::Configuration(format!("{error:#}")))?;
    let store = super::store_of(&args.store)?;
    let imported = block_on(moving::import(&store, &kinds, args.dry_run))?.map_err(failure)?;
    let mut text = String::new();
    let (mut made, mut changed, mut same, mut failed) = (0, 0, 0, 0);
    for one in &imported {
        match &one.change {
            Ok(change) if change.is_none() => same += 1,
            Ok(change) => {
                if change.before.is_none() {
                    made += 1;
                } else {
                    changed += 1;
                }
                text += &difference(one, change.before.as_ref(), &change.after);
            }
            Err(_) => failed += 1,
        }
    }
    let done = if args.dry_run { "would be " } else { "" };
    let _ = writeln!(
        text,
        "{made} {done}added, {changed} {done}changed, {same} the same already, {failed} refused"
    );
    super::print(text.as_bytes())?;
    if failed == 0 {
        return Ok(());
    }
    let refused = imported.iter().filter_map(|one| {
        let why = one.change.as_ref().err()?;
        Some(format!("{} cannot be imported: {why}", title(one)))
    });
    Err(anyhow!(refused.collect::<Vec<_>>().join("\n")).into())
}

/// The documents of a file, by their kinds: an object, or a list with one, as exports are.
fn read(file: &Path) -> anyhow::Result<Map<String, Value>> {
    let mut text = String::new();
    let reading = if file == Path::new("-") {
        io::stdin().lock().take(LARGEST).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|file| file.take(LARGEST).read_to_string(&mut text))
    };
    reading.with_context(|| format!("cannot read {}", file.display()))?;
    let value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))?;
    let value = match value {
        Value::Array(mut items) if items.len() == 1 => items.remove(0),
        other => other,
    };
    match value {
        Value::Object(kinds) if kinds.values().all(Value::is_array) => Ok(kinds),
        _ => Err(anyhow!(
            "{} is no export: it must hold an object of lists, such as {{\"Channels\": []}}",
            file.display()
        )),
    }
}

fn title(one: &Imported) -> String {
    match &one.name {
        Some(name) => format!("{} \"{name}\"", one.kind),
        None => one.kind.clone(),
    }
}

fn difference(one: &Imported, before: Option<&Value>, after: &Value) -> String {
    let text = |value: Option<&Value>| {
        let veiled = value.cloned().map(|it| veil(it, false));
        veiled.map_or_else(String::new, |it| {
            serde_json::to_string_pretty(&it).unwrap_or_default() + "\n"
        })
    };
    let (before, after) = (text(before), text(Some(after)));
    let title = title(one);
    TextDiff::from_lines(&before, &after)
        .unified_diff()
        .context_radius(2)
        .header(&title, &title)
        .to_string()
}

/// Secrets, and all texts inside what is secret, as a few digits of their digest: enough to see that they change.
fn veil(value: Value, is_secret: bool) -> Value {
    match value {
        Value::String(secret) if is_secret && !secret.is_empty() => {
            Value::String(format!("(secret {:08x})", MARKS.hash_one(&secret) as u32))
        }
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| {
                let is_secret = is_secret || SECRETS.contains(&name.as_str());
                (name, veil(value, is_secret))
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(|item| veil(item, is_secret)).collect(),
        other => other,
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    Ok(runtime.block_on(work))
}

fn failure(error: MigrationError) -> Failure {
    Failure::Configuration(format!("{:#}", anyhow::Error::new(error)))
}
