//! The file in which a node keeps who it is and whom it knows.
//!
//! JSON: `{"identity": …, "incarnation": …, "peers": [{"identity": …, "address": …}]}`; keys that are not known stay as
//! they are. It is written as a whole, beside, and then put in place, so that it is there or not, never
//! half of it. Other programs may change it in the same way while the node runs: a
//! [`sync`](Store::sync) takes over on each side what was changed on the other since the last one. A file that cannot be
//! understood is an error, and left alone.
//!
//! There is no thread here; the shell runs one that syncs now and then, and once more at the end.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::Error;
use super::identity::Identity;

/// The longest file that is read.
const LONGEST: u64 = 64 << 20;

/// Peers and where they listen, if that is known.
pub(crate) type Book = BTreeMap<Identity, Option<String>>;

/// A file of peers, and what it held at the last sync.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    identity: Identity,
    incarnation: u64,
    /// What the node knew at the last sync.
    known: Book,
    /// What the file had then.
    written: Book,
}

/// What was changed in the file by somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A peer is new, or its address.
    Know {
        peer: Identity,
        address: Option<String>,
    },
    /// A peer was taken out.
    Forget { peer: Identity },
}

/// What a file says.
#[derive(Clone, Debug, PartialEq)]
struct Contents {
    identity: Identity,
    incarnation: u64,
    peers: BTreeMap<Identity, Entry>,
    /// Keys that are somebody else's.
    more: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Entry {
    address: Option<String>,
    more: Map<String, Value>,
}

/// The file as JSON has it.
#[derive(Serialize, Deserialize)]
struct Page {
    identity: String,
    #[serde(default)]
    incarnation: u64,
    #[serde(default)]
    peers: Vec<Row>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    identity: String,
    #[serde(default)]
    address: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Store {
    /// Reads the file, or makes it, for a node that starts: its incarnation is higher than that of all its former
    /// lives, and written at once. The identity is the one in the file; in a new one `given`, or one made up.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if it cannot be read, understood or written; [`Error::IdentityDiffers`] if
    /// `given` is not the one in the file.
    pub(crate) fn open(path: &Path, given: Option<&Identity>) -> Result<Self, Error> {
        // What a link points to is replaced, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let mut contents = match read(&path)? {
            Some(contents) => contents,
            None => Contents {
                identity: given.cloned().unwrap_or_else(Identity::random),
                incarnation: 0,
                peers: BTreeMap::new(),
                more: Map::new(),
            },
        };
        if let Some(given) = given.filter(|given| **given != contents.identity) {
            return Err(Error::IdentityDiffers {
                given: given.clone(),
                stored: contents.identity,
            });
        }
        contents.incarnation = contents.incarnation.saturating_add(1).max(now);
        write(&path, &contents)?;
        let written = contents.book();
        Ok(Self {
            path,
            identity: contents.identity,
            incarnation: contents.incarnation,
            known: written.clone(),
            written,
        })
    }

    /// Who the node is.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The number of this life of it.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Whom the node is to know, as of the last sync. Those it is not told of (there are too many, say) have to be
    /// taken out by [`pass_over`](Self::pass_over), or they would be taken for forgotten.
    pub(crate) fn peers(&self) -> &Book {
        &self.known
    }

    /// The node does not know this peer, though the file has it; which stays so.
    pub(crate) fn pass_over(&mut self, peer: &Identity) {
        self.known.remove(peer);
    }

    /// Writes what the node has learned and forgotten since the last sync, and gives what others have changed in the file
    /// since then. What was changed on both sides is as the node has it. A file that was removed is made anew.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] and [`Error::IdentityDiffers`] (of the file now); nothing is lost then, the next sync may
    /// go well.
    pub(crate) fn sync(&mut self, known: &Book) -> Result<Vec<Change>, Error> {
        let found = read(&self.path)?;
        let lost = found.is_none();
        let mut contents = found.unwrap_or_else(|| Contents {
            identity: self.identity.clone(),
            incarnation: self.incarnation,
            peers: Contents::entries(&self.written),
            more: Map::new(),
        });
        if contents.identity != self.identity {
            return Err(Error::IdentityDiffers {
                given: self.identity.clone(),
                stored: contents.identity,
            });
        }
        let before = contents.clone();
        contents.incarnation = contents.incarnation.max(self.incarnation);
        let mut changes = Vec::new();
        let file = contents.book();
        for (peer, address) in differences(&self.written, &file) {
            if known.get(peer) == self.known.get(peer) && known.get(peer) != address {
                changes.push(match address {
                    Some(address) => Change::Know {
                        peer: peer.clone(),
                        address: address.clone(),
                    },
                    None => Change::Forget { peer: peer.clone() },
                });
            }
        }
        for (peer, address) in differences(&self.known, known) {
            match address {
                Some(address) => {
                    let entry = contents.peers.entry(peer.clone()).or_default();
                    entry.address.clone_from(address);
                }
                None => drop(contents.peers.remove(peer)),
            }
        }
        if lost || contents != before {
            write(&self.path, &contents)?;
        }
        self.known.clone_from(known);
        self.written = contents.book();
        Ok(changes)
    }
}

/// The peers that are not the same in both, with what the second has.
fn differences<'a>(
    old: &'a Book,
    new: &'a Book,
) -> impl Iterator<Item = (&'a Identity, Option<&'a Option<String>>)> {
    let gone = old.keys().filter(|peer| !new.contains_key(*peer));
    let changed = new
        .iter()
        .filter(|(peer, address)| old.get(*peer) != Some(*address));
    gone.map(|peer| (peer, None))
        .chain(changed.map(|(peer, address)| (peer, Some(address))))
}

impl Contents {
    fn parse(json: &[u8]) -> Result<Self, String> {
        let page: Page = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let identity = Identity::try_from(page.identity).map_err(|error| error.to_string())?;
        let mut peers = BTreeMap::new();
        for Row {
            identity,
            address,
            more,
        } in page.peers
        {
            let peer = Identity::try_from(&*identity)
                .map_err(|error| format!("the peer {identity:?}: {error}"))?;
            if peers.insert(peer, Entry { address, more }).is_some() {
                return Err(format!("the peer {identity:?} is there twice"));
            }
        }
        Ok(Self {
            identity,
            incarnation: page.incarnation,
            peers,
            more: page.more,
        })
    }

    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let rows = self.peers.iter().map(|(identity, entry)| Row {
            identity: identity.to_string(),
            address: entry.address.clone(),
            more: entry.more.clone(),
        });
        let page = Page {
            identity: self.identity.to_string(),
            incarnation: self.incarnation,
            peers: rows.collect(),
            more: self.more.clone(),
        };
        let mut json = serde_json::to_vec_pretty(&page)?;
        json.push(b'\n');
        Ok(json)
    }

    fn book(&self) -> Book {
        let peers = self.peers.iter();
        peers
            .map(|(peer, entry)| (peer.clone(), entry.address.clone()))
            .collect()
    }

    fn entries(book: &Book) -> BTreeMap<Identity, Entry> {
        let entry = |address: &Option<String>| Entry {
            address: address.clone(),
            more: Map::new(),
        };
        book.iter()
            .map(|(peer, address)| (peer.clone(), entry(address)))
            .collect()
    }
}

/// What the file says; `None` if there is none.
fn read(path: &Path) -> Result<Option<Contents>, Error> {
    let failed = |what: &str, source| Error::Store {
        problem: format!("{what} {}", path.display()),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("cannot open", error)),
    };
    let mut json = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut json)
        .map_err(|error| failed("cannot read", error))?;
    let contents = match json.len() as u64 > LONGEST {
        true => Err(format!("it is longer than {LONGEST} bytes")),
        false => Contents::parse(&json),
    };
    contents.map(Some).map_err(|problem| {
        let source = io::Error::new(io::ErrorKind::InvalidData, problem);
        failed("cannot understand", source)
    })
}

/// Puts a whole new file in the place of the old one.
fn write(path: &Path, contents: &Contents) -> Result<(), Error> {
    let written = (|| {
        let json = contents.to_json().map_err(io::Error::from)?;
        let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
        name.push(format!(".{}.new", process::id()));
        let beside = path.with_file_name(name);
        // Of a former process with this number.
        let _ = fs::remove_file(&beside);
        let placed = write_new(&beside, path, &json).and_then(|()| fs::rename(&beside, path));
        if placed.is_err() {
            let _ = fs::remove_file(&beside);
        }
        placed?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        // The change of name is to last too; not all file systems can promise that.
        let _ = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
        Ok(())
    })();
    written.map_err(|source| Error::Store {
        problem: format!("cannot write {}", path.display()),
        source,
    })
}

fn write_new(beside: &Path, path: &Path, json: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(beside)?;
    if let Ok(old) = fs::metadata(path) {
        file.set_permissions(old.permissions())?;
    }
    file.write_all(json)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A file of a test's own, removed with its folder.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("interplay-store-{}-{number}", process::id());
            let folder = std::env::temp_dir().join(name);
            fs::create_dir(&folder).unwrap();
            Self(folder)
        }

        fn path(&self) -> PathBuf {
            self.0.join("peers.json")
        }

        fn open(&self) -> Store {
            Store::open(&self.path(), None).unwrap()
        }

        fn read(&self) -> Value {
            serde_json::from_slice(&fs::read(self.path()).unwrap()).unwrap()
        }

        /// As another program would.
        fn change(&self, change: impl FnOnce(&mut Value)) {
            let mut value = self.read();
            change(&mut value);
            fs::write(self.path(), value.to_string()).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn id(name: &str) -> Identity {
        name.try_into().unwrap()
    }

    fn book(peers: &[(&str, &str)]) -> Book {
        let peers = peers.iter();
        peers
            .map(|(peer, address)| (id(peer), Some((*address).to_owned())))
            .collect()
    }

    fn know(peer: &str, address: &str) -> Change {
        Change::Know {
            peer: id(peer),
            address: Some(address.to_owned()),
        }
    }

    #[test]
    fn a_new_file_has_an_identity_of_32_hexadecimal_digits() {
        // sto-01
        let scratch = Scratch::new();
        let store = scratch.open();
        assert_eq!(store.identity().as_str().len(), 32);
        let expected = json!({
            "identity": store.identity().as_str(),
            "incarnation": store.incarnation(),
            "peers": [],
        });
        assert_eq!(scratch.read(), expected);
        let mode = fs::metadata(scratch.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
    }

    #[test]
    fn the_identity_survives_and_each_life_has_a_higher_incarnation() {
        // sto-02
        let scratch = Scratch::new();
        let first = scratch.open();
        let second = scratch.open();
        assert_eq!(first.identity(), second.identity());
        assert!(second.incarnation() > first.incarnation());
        // Even if the clock was set back.
        let future = u64::MAX - 9;
        scratch.change(|file| file["incarnation"] = future.into());
        assert_eq!(scratch.open().incarnation(), future + 1);
        let millisecond = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_millis();
        assert!(u128::from(second.incarnation()) <= millisecond + 1);
    }

    #[test]
    fn an_identity_that_differs_from_the_one_in_the_file_is_an_error() {
        // sto-03
        let scratch = Scratch::new();
        let (mine, other) = (id("MYOWN"), id("OTHER"));
        Store::open(&scratch.path(), Some(&mine)).unwrap();
        assert_eq!(*scratch.open().identity(), mine);
        let before = scratch.read();
        let error = Store::open(&scratch.path(), Some(&other)).unwrap_err();
        assert!(matches!(
            error,
            Error::IdentityDiffers { given, stored } if given == other && stored == mine
        ));
        assert_eq!(scratch.read(), before);
    }

    #[test]
    fn peers_that_are_learned_are_saved_and_loaded() {
        // sto-04, sto-13
        let scratch = Scratch::new();
        let mut store = scratch.open();
        let mut peers = book(&[("BBBBB", "h:1")]);
        peers.insert(id("CCCCC"), None);
        assert_eq!(store.sync(&peers).unwrap(), []);
        assert_eq!(*scratch.open().peers(), peers);
        // sto-07
        peers.insert(id("BBBBB"), Some("h:99".to_owned()));
        assert_eq!(store.sync(&peers).unwrap(), []);
        assert_eq!(*scratch.open().peers(), peers);
    }

    #[test]
    fn what_others_change_in_the_file_reaches_the_node_once() {
        // sto-05, sto-06, sto-08, sto-10
        let scratch = Scratch::new();
        let mut store = scratch.open();
        let mut peers = book(&[("BBBBB", "h:1"), ("CCCCC", "hc:3"), ("EEEEE", "he:5")]);
        store.sync(&peers).unwrap();
        scratch.change(|file| {
            file["peers"] = json!([
                {"identity": "BBBBB", "address": "h:1"},
                {"identity": "CCCCC", "address": "hc:55"},
                {"identity": "DDDDD", "address": "hd:4"},
            ]);
        });
        let forget = Change::Forget { peer: id("EEEEE") };
        let expected = [forget, know("CCCCC", "hc:55"), know("DDDDD", "hd:4")];
        assert_eq!(store.sync(&peers).unwrap(), expected);
        // The node has not got to it, and then it has.
        assert_eq!(store.sync(&peers).unwrap(), []);
        peers = book(&[("BBBBB", "h:1"), ("CCCCC", "hc:55"), ("DDDDD", "hd:4")]);
        assert_eq!(store.sync(&peers).unwrap(), []);
        assert_eq!(*scratch.open().peers(), peers);
    }

    #[test]
    fn a_peer_that_was_removed_stays_removed() {
        // sto-09
        let scratch = Scratch::new();
        let mut store = scratch.open();
        store
            .sync(&book(&[("BBBBB", "h:1"), ("CCCCC", "h:2")]))
            .unwrap();
        let rest = book(&[("CCCCC", "h:2")]);
        for _ in 0..3 {
            assert_eq!(store.sync(&rest).unwrap(), []);
            assert_eq!(*scratch.open().peers(), rest);
        }
    }

    #[test]
    fn what_both_sides_change_is_as_the_node_has_it() {
        let scratch = Scratch::new();
        let mut store = scratch.open();
        store
            .sync(&book(&[("BBBBB", "h:1"), ("CCCCC", "h:2")]))
            .unwrap();
        scratch.change(|file| {
            file["peers"][0]["address"] = "h:77".into();
            file["peers"][1]["address"] = "h:88".into();
        });
        let ours = book(&[("BBBBB", "h:11")]);
        assert_eq!(store.sync(&ours).unwrap(), []);
        assert_eq!(*scratch.open().peers(), ours);
    }

    #[test]
    fn what_the_node_does_not_take_over_stays_in_the_file() {
        let scratch = Scratch::new();
        let all = book(&[("BBBBB", "h:1"), ("CCCCC", "h:2")]);
        scratch.open().sync(&all).unwrap();
        let mut store = scratch.open();
        store.pass_over(&id("CCCCC"));
        let few = book(&[("BBBBB", "h:1")]);
        assert_eq!(*store.peers(), few);
        assert_eq!(store.sync(&few).unwrap(), []);
        assert_eq!(*scratch.open().peers(), all);
    }

    #[test]
    fn keys_that_are_not_known_are_kept() {
        // sto-12
        let scratch = Scratch::new();
        scratch.open();
        scratch.change(|file| {
            file["sync"] = json!({"a": [1.5]});
            file["peers"] = json!([{"identity": "BBBBB", "note": "the hub"}]);
        });
        let mut store = scratch.open();
        assert_eq!(*store.peers(), Book::from([(id("BBBBB"), None)]));
        store.sync(&book(&[("BBBBB", "h:1")])).unwrap();
        let file = scratch.read();
        assert_eq!(file["sync"], json!({"a": [1.5]}));
        let row = json!({"identity": "BBBBB", "address": "h:1", "note": "the hub"});
        assert_eq!(file["peers"], json!([row]));
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_an_error_and_left_alone() {
        // sto-11
        let row = |row: &str| format!(r#"{{"identity":"AAAAA","peers":[{row}]}}"#);
        for (text, expected) in [
            (String::new(), "EOF"),
            ("garbage".to_owned(), "expected value"),
            ("[]".to_owned(), "expected"),
            ("{}".to_owned(), "missing field `identity`"),
            (r#"{"identity":"abc"}"#.to_owned(), "4 to 255"),
            (
                row(r#"{"identity":"abc"}"#),
                "the peer \"abc\": an identity",
            ),
            (row(r#"{"address":"h:1"}"#), "missing field"),
            (row(r#"{"identity":"BBBBB","address":5}"#), "invalid type"),
            (
                row(r#"{"identity":"BBBBB"},{"identity":"BBBBB"}"#),
                "is there twice",
            ),
        ] {
            let scratch = Scratch::new();
            fs::write(scratch.path(), &text).unwrap();
            let error = Store::open(&scratch.path(), None).unwrap_err();
            let Error::Store { problem, source } = error else {
                panic!("{error}");
            };
            assert!(problem.contains("cannot understand") && problem.contains("peers.json"));
            assert!(source.to_string().contains(expected), "{source}");
            assert_eq!(fs::read_to_string(scratch.path()).unwrap(), text);
            assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_file_that_others_break_is_left_alone_until_it_is_whole_again() {
        let scratch = Scratch::new();
        let mut store = scratch.open();
        let whole = fs::read(scratch.path()).unwrap();
        fs::write(scratch.path(), "{").unwrap();
        let peers = book(&[("BBBBB", "h:1")]);
        assert!(store.sync(&peers).is_err());
        assert_eq!(fs::read(scratch.path()).unwrap(), b"{");
        fs::write(scratch.path(), whole).unwrap();
        store.sync(&peers).unwrap();
        assert_eq!(*scratch.open().peers(), peers);
        scratch.change(|file| file["identity"] = "somebody else".into());
        assert!(matches!(
            store.sync(&Book::new()),
            Err(Error::IdentityDiffers { .. })
        ));
    }

    #[test]
    fn a_file_that_was_removed_is_made_anew() {
        let scratch = Scratch::new();
        let mut store = scratch.open();
        let peers = book(&[("BBBBB", "h:1")]);
        store.sync(&peers).unwrap();
        fs::remove_file(scratch.path()).unwrap();
        assert_eq!(store.sync(&peers).unwrap(), []);
        let again = scratch.open();
        assert_eq!(
            (again.peers(), again.identity()),
            (&peers, store.identity())
        );
    }

    #[test]
    fn a_sync_without_changes_does_not_write() {
        let scratch = Scratch::new();
        let mut store = scratch.open();
        let peers = book(&[("BBBBB", "h:1")]);
        store.sync(&peers).unwrap();
        // Another text for the same.
        scratch.change(|_| ());
        let text = fs::read(scratch.path()).unwrap();
        store.sync(&peers).unwrap();
        assert_eq!(fs::read(scratch.path()).unwrap(), text);
    }

    #[test]
    fn the_mode_of_a_file_and_links_to_it_stay() {
        let scratch = Scratch::new();
        scratch.open();
        fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o640)).unwrap();
        let link = scratch.0.join("link");
        std::os::unix::fs::symlink(scratch.path(), &link).unwrap();
        let mut store = Store::open(&link, None).unwrap();
        store.sync(&book(&[("BBBBB", "h:1")])).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let mode = fs::metadata(scratch.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(scratch.open().peers().len(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error() {
        let scratch = Scratch::new();
        let nowhere = scratch.0.join("no folder").join("peers.json");
        let Err(Error::Store { problem, .. }) = Store::open(&nowhere, None) else {
            panic!("there is no such folder");
        };
        assert!(problem.contains("cannot write"), "{problem}");
        assert!(Store::open(&scratch.0, None).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}\":,a-e0-9 ]{0,60}") {
            let _ = Contents::parse(text.as_bytes());
        }

        #[test]
        fn what_is_written_is_read(
            peers in prop::collection::btree_map("\\PC{4,20}", prop::option::of(".{0,20}"), 0..9),
        ) {
            let contents = Contents {
                identity: Identity::random(),
                incarnation: 7,
                peers: Contents::entries(
                    &peers.into_iter().map(|(peer, address)| (id(&peer), address)).collect(),
                ),
                more: Map::new(),
            };
            let json = contents.to_json().unwrap();
            prop_assert_eq!(Contents::parse(&json), Ok(contents));
        }
    }
}
