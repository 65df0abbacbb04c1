#include "crc.h"

uint32_t crc(const void *data, size_t length) {
    const unsigned char *at = data;
    uint32_t sum = ~0u;
    while (length--) {
        sum ^= *at++;
        for (int bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (sum & 1 ? 0xedb88320u : 0);
    }
    return ~sum;
}
