//! Small programs on several networks; each is under `src/bin`.
