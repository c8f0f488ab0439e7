//! Dolmen beside the `safetensors` crate and beside plain reading and writing, in one run: see `benches/README.md`.

#[cfg(feature = "cuda")]
mod cuda;
mod feature;
mod load;
mod machine;
mod measure;
mod open;
mod save;
mod torch;
mod validate;

use machine::Machine;
use measure::Table;

#[global_allocator]
static ALLOCATOR: machine::Counting = machine::Counting;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo says `--bench` when it runs benches, and nothing when it tests that they run.
    let smoke = !arguments.iter().any(|a| a == "--bench");
    let wanted: Vec<&str> = arguments.iter().map(String::as_str).filter(|a| !a.starts_with('-')).collect();
    let machine = Machine::new(smoke);
    println!("{machine}");
    let mut table = Table::default();
    type Group = fn(&Machine, &mut Table);
    let groups: [(&str, Group); 7] = [
        ("open", open::run),
        ("load", load::run),
        ("save", save::run),
        ("torch", torch::run),
        ("validate", validate::run),
        ("feature", feature::run),
        #[cfg(feature = "cuda")]
        ("cuda", cuda::run),
        #[cfg(not(feature = "cuda"))]
        ("cuda", |_, table| table.notes.push("no CUDA device: this was built without the feature `cuda`".into())),
    ];
    for (name, run) in groups {
        if wanted.is_empty() || wanted.contains(&name) {
            eprintln!("{name} ...");
            run(&machine, &mut table);
        }
    }
    println!("{table}");
}
