//! `src/UNSAFE.md` lists every `unsafe` of the repository, and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// File, item and kind of an `unsafe`.
type Place = (String, String, String);
/// How many there are at each place.
type Places = BTreeMap<Place, usize>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files below a folder, but for what is built.
fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().unwrap() != "target" {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

struct Finder {
    file: String,
    /// The names of the items around what is visited, from the outside in.
    items: Vec<String>,
    found: Places,
}

impl Finder {
    fn found(&mut self, kind: &str) {
        let place = (self.file.clone(), self.items.join("::"), kind.to_owned());
        *self.found.entry(place).or_default() += 1;
    }

    fn within(&mut self, name: impl ToString, visit: impl FnOnce(&mut Self)) {
        self.items.push(name.to_string());
        visit(self);
        self.items.pop();
    }

    /// Takes every `unsafe` of a macro's tokens, which are not parsed.
    fn tokens(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if ident == "unsafe" => self.found("macro"),
                TokenTree::Group(group) => self.tokens(group.stream()),
                _ => {}
            }
        }
    }
}

/// The last name of a path.
fn last(path: &syn::Path) -> String {
    path.segments.last().map_or_else(String::new, |segment| segment.ident.to_string())
}

fn name_of_type(ty: &syn::Type) -> String {
    match ty {
        syn::Type::Path(path) => last(&path.path),
        syn::Type::Reference(reference) => name_of_type(&reference.elem),
        _ => "?".to_owned(),
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.within(&item.ident, |finder| visit::visit_item_mod(finder, item));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.within(&item.sig.ident, |finder| visit::visit_item_fn(finder, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.within(&item.sig.ident, |finder| visit::visit_impl_item_fn(finder, item));
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.within(&item.sig.ident, |finder| visit::visit_trait_item_fn(finder, item));
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if signature.unsafety.is_some() {
            self.found("fn");
        }
        visit::visit_signature(self, signature);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let ty = name_of_type(&item.self_ty);
        let of = item.trait_.as_ref().map(|(_, path, _)| last(path));
        let name = of.map_or(ty.clone(), |of| format!("{of} for {ty}"));
        self.within(name, |finder| {
            if item.unsafety.is_some() {
                finder.found("impl");
            }
            visit::visit_item_impl(finder, item);
        });
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.within(&item.ident, |finder| {
            if item.unsafety.is_some() {
                finder.found("trait");
            }
            visit::visit_item_trait(finder, item);
        });
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
        if item.unsafety.is_some() {
            self.found("extern");
        }
        visit::visit_item_foreign_mod(self, item);
    }

    fn visit_expr_unsafe(&mut self, expression: &'ast syn::ExprUnsafe) {
        self.found("block");
        visit::visit_expr_unsafe(self, expression);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        // `#[unsafe(no_mangle)]` and its like.
        if attribute.path().is_ident("unsafe") {
            self.found("attribute");
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_macro(&mut self, of: &'ast syn::Macro) {
        self.tokens(of.tokens.clone());
    }
}

/// Every `unsafe` of a file's text.
fn find(file: &str, text: &str) -> Places {
    let parsed = syn::parse_file(text).unwrap_or_else(|e| panic!("{file}: {e}"));
    let mut finder = Finder { file: file.to_owned(), items: Vec::new(), found: Places::new() };
    finder.visit_file(&parsed);
    finder.found
}

/// Every `unsafe` of the repository: item by item in the crate and the command, in all else their number in each file.
fn in_the_code() -> Places {
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches", "examples", "fuzz"] {
        rust_files(&root().join(folder), &mut files);
    }
    let mut places = Places::new();
    for path in files {
        let file = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        for ((file, item, kind), count) in find(&file, &fs::read_to_string(&path).unwrap()) {
            let place =
                if file.starts_with("src/") { (file, item, kind) } else { (file, String::new(), "all".to_owned()) };
            *places.entry(place).or_default() += count;
        }
    }
    places
}

/// What the rows of the document's tables list: file, item, kind and number.
fn in_the_document(text: &str) -> Places {
    let mut places = Places::new();
    let mut file = String::new();
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [named, item, kind, contract] = cells[..] else { continue };
        if kind == "kind" || kind.starts_with('-') {
            continue;
        }
        // A file is named in the first of its rows.
        if !named.is_empty() {
            file = named.to_owned();
        }
        assert!(contract.len() > 10, "no contract: {line}");
        let (kind, count) = match (kind.parse(), kind.split_once(" × ")) {
            (Ok(count), _) => ("all", count),
            (_, Some((kind, count))) => (kind, count.parse().unwrap()),
            _ => (kind, 1),
        };
        let again = places.insert((file.clone(), item.to_owned(), kind.to_owned()), count);
        assert!(again.is_none(), "listed twice: {line}");
    }
    places
}

#[test]
fn every_unsafe_is_listed_with_its_contract_and_nothing_else_is() {
    let (code, document) = (in_the_code(), in_the_document(&fs::read_to_string(root().join("src/UNSAFE.md")).unwrap()));
    assert!(code.len() > 50, "{}", code.len());
    let mut wrong = Vec::new();
    for (place, count) in &code {
        match document.get(place) {
            None => wrong.push(format!("not listed: {place:?} × {count}")),
            Some(listed) if listed != count => wrong.push(format!("{listed} listed, {count} there: {place:?}")),
            Some(_) => {}
        }
    }
    let gone = document.keys().filter(|place| !code.contains_key(*place));
    wrong.extend(gone.map(|place| format!("listed, and not there: {place:?}")));
    assert!(wrong.is_empty(), "src/UNSAFE.md and the code differ:\n{}", wrong.join("\n"));
}

#[test]
fn every_form_of_unsafe_is_found() {
    let text = r##"
        // unsafe in a comment
        const TEXT: &str = "unsafe { in text }";
        unsafe trait T { unsafe fn a(&self); }
        unsafe impl T for u8 { unsafe fn a(&self) { unsafe { b() } } }
        unsafe extern "C" { fn b(); }
        mod inner { impl super::S { pub fn c() { let f = || unsafe { d() }; unsafe { e() } } } }
        macro_rules! m { () => { unsafe { f() } } }
        fn g() { println!("{}", unsafe { h() }); }
        #[unsafe(no_mangle)] fn i() {}
        type J = unsafe extern "C" fn();
    "##;
    let place = |item: &str, kind: &str| ("x.rs".to_owned(), item.to_owned(), kind.to_owned());
    let expected = [
        (place("T", "trait"), 1),
        (place("T::a", "fn"), 1),
        (place("T for u8", "impl"), 1),
        (place("T for u8::a", "fn"), 1),
        (place("T for u8::a", "block"), 1),
        (place("", "extern"), 1),
        (place("inner::S::c", "block"), 2),
        (place("", "macro"), 1),
        (place("g", "macro"), 1),
        (place("i", "attribute"), 1),
    ];
    // The type of an unsafe function asks nothing of anybody until it is called.
    assert_eq!(find("x.rs", text), Places::from(expected));
}
