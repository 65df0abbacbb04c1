import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

/** What a program needs of the virtual machine. */
public class Guest {
    int field = 1;

    static int read(Guest guest) {
        return guest.field;
    }

    static int depth(int n) {
        return depth(n + 1) + 1;
    }

    /** Null checks by faults, in interpreted and in compiled code. */
    static int nulls() {
        Guest guest = new Guest();
        int sum = 0;
        for (int i = 0; i < 20000; i++) {
            try {
                sum += read(i % 100 == 99 ? null : guest);
            } catch (NullPointerException expected) {
                sum += 1000;
            }
        }
        return sum;
    }

    static int allocate(int threads) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(threads);
        List<Future<Integer>> results = new ArrayList<>();
        for (int i = 0; i < 50; i++) {
            int number = i;
            results.add(pool.submit(() -> {
                List<byte[]> kept = new ArrayList<>();
                for (int j = 0; j < 300; j++) {
                    kept.add(new byte[1000 + j]);
                    if (kept.size() > 50) {
                        kept.clear();
                    }
                }
                return number;
            }));
        }
        int sum = 0;
        for (Future<Integer> result : results) {
            sum += result.get();
        }
        pool.shutdown();
        return sum;
    }

    static int timers(int count) throws Exception {
        ScheduledExecutorService pool = Executors.newScheduledThreadPool(2);
        CountDownLatch left = new CountDownLatch(count);
        for (int i = 0; i < count; i++) {
            pool.schedule(left::countDown, i % 20, TimeUnit.MILLISECONDS);
        }
        left.await();
        pool.shutdown();
        return count;
    }

    static int started(int threads) throws Exception {
        AtomicInteger sum = new AtomicInteger();
        for (int i = 0; i < threads; i++) {
            Thread thread = new Thread(sum::incrementAndGet);
            thread.start();
            thread.join();
        }
        return sum.get();
    }

    public static void main(String[] words) throws Exception {
        System.out.println("pool " + allocate(8));
        System.out.println("nulls " + nulls());
        try {
            depth(0);
        } catch (StackOverflowError expected) {
            System.out.println("stack overflow");
        }
        try {
            int zero = words.length;
            System.out.println(1 / zero);
        } catch (ArithmeticException expected) {
            System.out.println(expected.getMessage());
        }
        for (int i = 0; i < 3; i++) {
            System.gc();
        }
        System.out.println("timers " + timers(1000));
        System.out.println("threads " + started(500));
        Map<String, Integer> counts = new TreeMap<>();
        for (int i = 0; i < 2000; i++) {
            counts.merge("key" + i % 37, i, Integer::sum);
        }
        System.out.println("map " + counts.hashCode());
        double sum = 0;
        for (int i = 1; i < 50000; i++) {
            sum += Math.sin(i) / i;
        }
        System.out.printf("sum %.6f%n", sum);
    }
}
