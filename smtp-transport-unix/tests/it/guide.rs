//! The guide's program is the one that runs, and does what the guide says.

use std::path::Path;
use std::process::Command;

use crate::support::example;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_code_in_the_guide_is_the_example() {
    let guide = read("../docs/writing-a-transport.md");
    let blocks: Vec<&str> = guide.split("```rust\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert!(blocks.len() > 8);
    assert!(
        blocks.join("\n") == read("examples/frames.rs"),
        "examples/frames.rs is not the guide's code, in its order"
    );
}

#[test]
fn the_example_carries_sessions_and_passes_the_kit() {
    let output = Command::new(example("frames")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.matches("\r\n221 ").count(), 2, "{said}");
    assert_eq!(said.matches("7 octets for").count(), 2, "{said}");
    assert!(said.matches("passed ").count() > 10, "{said}");
}
