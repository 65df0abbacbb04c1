module example.org/guest

go 1.19

require example.org/words v1.0.0
