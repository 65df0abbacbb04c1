#pragma once
long rectangle(long width, long height);
