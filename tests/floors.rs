//! The floors of the house: what each module may import, as ARCHITECTURE.md has it.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules of this crate that the text names in `crate::` paths.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut names = BTreeSet::new();
    for line in code {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            match rest.strip_prefix('{') {
                // use crate::{a, b::c}
                Some(group) => names.extend(group.split(',').map(|item| first_word(item.trim()))),
                None => {
                    names.insert(first_word(rest));
                }
            }
        }
    }
    names.remove("");
    names
}

fn first_word(path: &str) -> String {
    path.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// Module and what it may import, read from the table in ARCHITECTURE.md.
fn table(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let module = |cell: &str| {
        cell.trim()
            .trim_matches('`')
            .trim_end_matches('/')
            .trim_end_matches(".rs")
            .to_owned()
    };
    let rows = text
        .lines()
        .map(|line| line.split('|').collect::<Vec<_>>())
        .filter(|cells| cells.len() == 6);
    rows.filter(|cells| cells[1].trim().parse::<u8>().is_ok())
        .map(|cells| {
            let may = cells[4]
                .split(',')
                .map(module)
                .filter(|name| name != "–")
                .collect();
            (module(cells[2]), may)
        })
        .collect()
}

#[test]
fn every_module_imports_only_what_its_floor_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = table(&fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap());
    assert!(table.len() >= 8, "the table was not found: {table:?}");
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for file in files {
        let below = file.strip_prefix(root.join("src")).unwrap();
        let module = first_word(
            below
                .components()
                .next()
                .unwrap()
                .as_os_str()
                .to_str()
                .unwrap(),
        );
        if module == "lib" {
            continue;
        }
        let Some(may) = table.get(&module) else {
            wrong.push(format!("{module} is on no floor"));
            continue;
        };
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            if import != module && !may.contains(&import) {
                wrong.push(format!("{} imports {import}", below.display()));
            }
        }
        seen.insert(module);
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(
        seen,
        table.into_keys().collect(),
        "modules in the table and under src"
    );
}

#[test]
fn the_floors_have_no_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut table = table(&fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap());
    while !table.is_empty() {
        let ground: Vec<String> = table
            .iter()
            .filter(|(_, may)| !may.iter().any(|m| table.contains_key(m)))
            .map(|(m, _)| m.clone())
            .collect();
        assert!(!ground.is_empty(), "these import each other: {table:?}");
        table.retain(|module, _| !ground.contains(module));
    }
}

#[test]
fn a_forbidden_import_is_found() {
    assert_eq!(
        imports("use crate::{http::Error, task};\n// crate::pool\nlet x = crate::wire::Reply;"),
        ["http", "task", "wire"].map(str::to_owned).into()
    );
}
