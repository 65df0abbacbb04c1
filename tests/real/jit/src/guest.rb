f = Fiber.new { 3.times { |i| Fiber.yield i }; :done }
p 4.times.map { f.resume }
e = Enumerator.new { |y| a, b = 0, 1; loop { y << a; a, b = b, a + b } }
p e.lazy.select(&:even?).first(8)
t = 8.times.map { |i| Thread.new { (1..2000).reduce(:+) + i } }
p t.map(&:value).sum
def fib(n) n < 2 ? n : fib(n-1) + fib(n-2) end
p fib(18)
p `echo hi`
begin; raise "x"; rescue => x; p x; end
def deep(n) deep(n + 1) end
begin; deep(0); rescue SystemStackError => x; p x.class; end
p Signal.trap("USR1") { puts "usr1" }; Process.kill("USR1", Process.pid); sleep 0.05
r, w = IO.pipe; fork { w.puts "child" }; Process.wait; p r.gets
require 'json'; p JSON.parse('{"a":[1,2]}')
