<?php
function fib($n) { return $n < 2 ? $n : fib($n-1) + fib($n-2); }
echo fib(20), "\n"; $a = []; for ($i = 0; $i < 50000; $i++) { $a[$i % 100] = ($a[$i % 100] ?? 0) + $i; } echo array_sum($a), "\n";
$f = new Fiber(function() { $x = Fiber::suspend(1); echo "got $x\n"; return 5; }); echo $f->start(), "\n"; $f->resume("y"); echo $f->getReturn(), "\n";
echo preg_replace('/(\d+)/', '<$1>', 'a1b22'), "\n"; echo json_encode(['a' => 1.5, 'b' => null]), "\n";
