let rec fib n = if n < 2 then n else fib (n-1) + fib (n-2)
let () = Printf.printf "%d\n" (fib 22); let l = List.init 100000 (fun i -> string_of_int i) in Gc.compact (); Printf.printf "%d\n" (List.length l);
 (try ignore (let rec f n = 1 + f (n + 1) in f 0) with Stack_overflow -> print_endline "overflow")
