//! Programs on Debian's jar of Apache Tribes.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::node::Problem;

const JARS: &str = "/usr/share/java/tomcat10-tribes.jar:/usr/share/java/tomcat10-juli.jar";

/// Compiles a program of `benches/java`, unless that is done, and tells where everything is.
pub(crate) fn compile(class: &str) -> Result<String, Problem> {
    let missing = JARS.split(':').find(|jar| !Path::new(jar).exists());
    if let Some(jar) = missing {
        return Err(format!("{jar} is missing; Debian's package libtomcat10-java holds it").into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = root.join(format!("benches/java/{class}.java"));
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("java");
    let compiled = target.join(format!("{class}.class"));
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    if changed(&compiled) < changed(&source) {
        fs::create_dir_all(&target)?;
        let javac = Command::new("javac").args(["-cp", JARS, "-d"]).arg(&target).arg(&source).status();
        match javac {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("javac: {status}").into()),
            Err(error) => return Err(format!("javac: {error}").into()),
        }
    }
    Ok(format!("{JARS}:{}", target.display()))
}
