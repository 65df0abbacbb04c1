#[test]
fn engine() {
    let mut config = wasmtime::Config::new();
    config
        .wasm_threads(true)
        .wasm_function_references(true)
        .wasm_wide_arithmetic(true)
        .wasm_multi_memory(true);
    let engine = wasmtime::Engine::new(&config).expect("engine");
    let module = wasm_encoder::Module::new();
    wasmtime::Module::new(&engine, module.finish()).expect("module");
}
