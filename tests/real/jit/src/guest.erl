-module(guest). -export([main/0]).
main() -> S = self(), [spawn(fun() -> S ! {N, lists:sum(lists:seq(1, N))} end) || N <- lists:seq(1, 1000)],
 io:format("~p~n", [lists:sum([receive {N, V} -> V end || N <- lists:seq(1, 1000)])]),
 erlang:garbage_collect(), io:format("~p~n", [erlang:system_info(emu_flavor)]),
 timer:sleep(10), {ok, L} = gen_tcp:listen(0, [{ip,{127,0,0,1}}, binary, {active,false}]), {ok, P} = inet:port(L),
 spawn(fun() -> {ok, C} = gen_tcp:accept(L), gen_tcp:send(C, <<"hey">>), gen_tcp:close(C) end),
 {ok, K} = gen_tcp:connect({127,0,0,1}, P, [binary, {active,false}]), io:format("~p~n", [gen_tcp:recv(K, 0)]).
