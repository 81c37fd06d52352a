//! Notices that a watched file has changed, however it was changed.
//!
//! The folders are watched, not the files: editors and deployment tools rename a new file into place, swap a symbolic
//! link, or delete and write anew. Where the kernel tells nothing (network file systems), a look every few seconds does.
//! A change counts only when two looks in a row see the same, so that a file is not read while it is being written.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Time between two looks that have to agree.
pub const SETTLE: Duration = Duration::from_millis(40);
/// Time between two looks when nothing was heard.
pub const UNHEARD: Duration = Duration::from_secs(5);

/// Files and what they held.
#[derive(Debug)]
pub struct Watch {
    files: HashMap<PathBuf, File>,
    folders: HashSet<PathBuf>,
    watcher: Option<RecommendedWatcher>,
}

/// What a file held; `None` is a file that is not there.
type Content = Option<Vec<u8>>;

#[derive(Debug, Default)]
struct File {
    known: Content,
    /// What the last look saw, if it was something new.
    seen: Option<Content>,
}

impl Watch {
    /// Watches nothing yet; whatever happens will be told to `ring`, which should make the owner [`look`](Self::look).
    #[must_use]
    pub fn new(ring: mpsc::Sender<()>) -> Self {
        let watcher = notify::recommended_watcher(move |_event| {
            // One ring that was not answered yet is enough.
            let _ = ring.try_send(());
        });
        let watcher = watcher.inspect_err(|error| tracing::warn!(%error, "Files are looked at every few seconds only"));
        Self {
            files: HashMap::new(),
            folders: HashSet::new(),
            watcher: watcher.ok(),
        }
    }

    /// Watches these files from now on, and no others. What they hold now counts as known.
    pub fn set(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        let paths: HashSet<PathBuf> = paths.into_iter().collect();
        self.files.retain(|path, _| paths.contains(path));
        for path in &paths {
            self.files.entry(path.clone()).or_insert_with(|| File {
                known: read(path),
                seen: None,
            });
        }
        let folders: HashSet<PathBuf> = paths.iter().map(|path| folder(path)).collect();
        if let Some(watcher) = &mut self.watcher {
            for gone in self.folders.difference(&folders) {
                let _ = watcher.unwatch(gone);
            }
            for new in folders.difference(&self.folders) {
                if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                    tracing::warn!(folder = %new.display(), %error, "Files here are looked at every few seconds only");
                }
            }
        }
        self.folders = folders;
    }

    /// Says that a file was just read: what it holds is known.
    pub fn note(&mut self, path: &Path) {
        if let Some(file) = self.files.get_mut(path) {
            *file = File {
                known: read(path),
                seen: None,
            };
        }
    }

    /// Looks at all files. Returns those that changed, and whether to look again soon because one is changing.
    pub fn look(&mut self) -> (Vec<PathBuf>, bool) {
        let (mut changed, mut is_unsettled) = (Vec::new(), false);
        for (path, file) in &mut self.files {
            let now = read(path);
            if now == file.known {
                file.seen = None;
            } else if file.seen.as_ref() == Some(&now) {
                (file.known, file.seen) = (now, None);
                changed.push(path.clone());
            } else {
                file.seen = Some(now);
                is_unsettled = true;
            }
        }
        (changed, is_unsettled)
    }
}

fn read(path: &Path) -> Content {
    std::fs::read(path).ok()
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Bench {
        folder: tempfile::TempDir,
        watch: Watch,
        rings: mpsc::Receiver<()>,
    }

    impl Bench {
        fn new(file: &str, content: &str) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            fs::write(folder.path().join(file), content).expect("written");
            let (ring, rings) = mpsc::channel(1);
            Self {
                folder,
                watch: Watch::new(ring),
                rings,
            }
        }

        fn path(&self, file: &str) -> PathBuf {
            self.folder.path().join(file)
        }

        fn watches(mut self, file: &str) -> Self {
            let path = self.path(file);
            self.watch.set([path]);
            self
        }

        /// The next change, told by the kernel.
        async fn changed(&mut self) -> Vec<PathBuf> {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
            loop {
                tokio::time::timeout_at(deadline, self.rings.recv())
                    .await
                    .expect("a ring in time");
                loop {
                    match self.watch.look() {
                        (changed, _) if !changed.is_empty() => return changed,
                        (_, true) => tokio::time::sleep(Duration::from_millis(5)).await,
                        (_, false) => break,
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn a_file_renamed_into_place_is_a_change() {
        let mut bench = Bench::new("nodes", "a").watches("nodes");
        fs::write(bench.path("new"), "b").expect("written");
        fs::rename(bench.path("new"), bench.path("nodes")).expect("renamed");

        assert_eq!(bench.changed().await, [bench.path("nodes")]);
    }

    #[tokio::test]
    async fn a_swapped_link_is_a_change() {
        let bench = Bench::new("one", "a");
        fs::write(bench.path("two"), "b").expect("written");
        symlink("one", bench.path("nodes")).expect("linked");
        let mut bench = bench.watches("nodes");
        symlink("two", bench.path("link")).expect("linked");
        fs::rename(bench.path("link"), bench.path("nodes")).expect("renamed");

        assert_eq!(bench.changed().await, [bench.path("nodes")]);
    }

    #[tokio::test]
    async fn a_file_deleted_and_written_anew_is_a_change() {
        let mut bench = Bench::new("nodes", "a").watches("nodes");
        fs::remove_file(bench.path("nodes")).expect("removed");
        assert_eq!(bench.changed().await, [bench.path("nodes")]);
        fs::write(bench.path("nodes"), "b").expect("written");
        assert_eq!(bench.changed().await, [bench.path("nodes")]);
    }

    #[test]
    fn what_is_being_written_is_not_a_change_yet() {
        let mut bench = Bench::new("nodes", "a").watches("nodes");
        for content in ["", "b", "b, c"] {
            fs::write(bench.path("nodes"), content).expect("written");
            assert_eq!(bench.watch.look(), (vec![], true), "{content}");
        }
        assert_eq!(bench.watch.look(), (vec![bench.path("nodes")], false));
        assert_eq!(bench.watch.look(), (vec![], false));
    }

    #[test]
    fn a_change_that_was_taken_back_is_none() {
        let mut bench = Bench::new("nodes", "a").watches("nodes");
        fs::write(bench.path("nodes"), "").expect("written");
        assert_eq!(bench.watch.look(), (vec![], true));
        fs::write(bench.path("nodes"), "a").expect("written");

        assert_eq!(bench.watch.look(), (vec![], false));
    }
}
