local function fib(n) if n < 2 then return n end return fib(n-1) + fib(n-2) end
print(fib(22)); local s = 0 for i = 1, 2e6 do s = (s + i * 7) % 1000003 end print(s)
local co = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end) print(co(), co(), co())
local ffi = require 'ffi' ffi.cdef 'int abs(int); int printf(const char*, ...);' print(ffi.C.abs(-4)) local t = {} for i = 1, 100000 do t[i] = {i} end collectgarbage() print(#t)
print(pcall(error, "x"))
