use proptest::prelude::*;

use super::*;

fn host(name: &str) -> Host {
    Host {
        name: name.into(),
        app_id: "app".into(),
        port: 0,
        local: false,
    }
}

fn ring(names: &[&str], replication: u32) -> Ring {
    let hosts = names.iter().map(|name| host(name)).collect();
    Ring::new(hosts, &mut Points::new(replication))
}

fn node(ring: &Ring, id: &str) -> u64 {
    let place = ring.points.partition_point(|point| *point < hash(id));
    *ring.points.get(place).unwrap_or(&ring.points[0])
}

const H1: &str = "10.0.0.1:50002";
const H2: &str = "10.0.0.2:50002";
const H3: &str = "10.0.0.3:50002";

#[test]
fn hash_vectors() {
    let check = |text: &str, expected: u64| assert_eq!(hash(text), expected, "{text}");
    check("", 241_225_442_164_632_184);
    check("a", 1_260_069_880_423_202_611);
    check("actor-1", 10_015_260_465_285_814_958);
    check("dapr", 9_771_444_651_266_950_173);
    check("10.0.0.1:500020", 7_120_362_376_346_592_644);
    check("10.0.0.1:500021", 6_505_922_788_473_134_223);
    check("10.0.0.2:500020", 9_203_486_376_198_907_635);
    check("192.168.1.83:609920", 11_414_427_053_803_968_138);
    check("[fd00::1]:500020", 1_287_830_018_379_685_195);
    check("myActorType||actor-1", 15_470_205_109_500_533_305);
    check("ünïcode-ß", 6_011_094_715_373_462_827);
}

#[test]
fn three_virtual_nodes() {
    let ring = ring(&[H1, H2], 3);
    let nodes: Vec<_> = ring
        .points
        .iter()
        .zip(&ring.owners)
        .map(|(point, owner)| (*point, &*ring.hosts[*owner as usize].name))
        .collect();
    assert_eq!(
        nodes,
        [
            (5_797_102_724_971_694_617, H1),
            (6_505_922_788_473_134_223, H1),
            (7_120_362_376_346_592_644, H1),
            (9_203_486_376_198_907_635, H2),
            (13_641_153_136_638_408_813, H2),
            (15_002_447_652_713_300_714, H2),
        ]
    );
    let check = |id: &str, owner: &str| {
        assert_eq!(ring.owner(id).map(|host| &*host.name), Some(owner), "{id}");
    };
    for id in ["a", "b", "c", "42"] {
        check(id, H1);
    }
    for id in ["1", "actor-1"] {
        check(id, H2);
    }
}

#[test]
fn hundred_virtual_nodes() {
    let ring = ring(&[H1, H2, H3], 100);
    assert_eq!(ring.points.len(), 300);
    assert_eq!(ring.points.first(), Some(&124_205_688_661_879_367));
    assert_eq!(ring.points.last(), Some(&18_185_047_526_332_531_417));
    let check = |id: &str, key: u64, chosen: u64, owner: &str| {
        assert_eq!(hash(id), key, "{id}");
        assert_eq!(node(&ring, id), chosen, "{id}");
        assert_eq!(ring.owner(id).map(|host| &*host.name), Some(owner), "{id}");
    };
    check(
        "1",
        11_971_653_999_726_161_180,
        12_052_653_450_018_070_718,
        H3,
    );
    check(
        "2",
        6_310_439_919_022_701_253,
        6_325_057_858_562_872_176,
        H3,
    );
    check(
        "3",
        17_332_574_438_168_426_095,
        17_340_333_052_510_041_994,
        H2,
    );
    check(
        "a",
        1_260_069_880_423_202_611,
        1_307_625_954_360_369_946,
        H2,
    );
    check("b", 277_966_625_355_999_680, 346_669_562_463_125_968, H1);
    check(
        "myactor",
        12_696_139_302_080_588_785,
        12_721_784_116_286_234_838,
        H1,
    );
    check(
        "actor-1",
        10_015_260_465_285_814_958,
        10_219_036_306_769_767_897,
        H1,
    );
    check(
        "actor-2",
        2_764_141_328_702_138_918,
        2_766_989_940_435_469_882,
        H3,
    );
    check(
        "actor-3",
        16_640_079_507_288_646_015,
        16_660_586_247_060_041_068,
        H2,
    );
    check(
        "actor-10",
        5_576_318_451_518_827_831,
        5_648_515_497_767_951_906,
        H2,
    );
    check(
        "order-1001",
        6_409_113_598_797_462_054,
        6_428_724_882_384_401_235,
        H1,
    );
    check(
        "user:42",
        12_625_098_119_807_851_057,
        12_640_549_563_224_910_453,
        H3,
    );
    check(
        "tenant||user",
        14_584_108_373_022_453_329,
        14_605_592_711_936_652_367,
        H1,
    );
    check(
        "00000000-0000-0000-0000-000000000000",
        17_506_950_643_997_619_870,
        17_551_146_428_695_771_111,
        H2,
    );
    check(
        "f47ac10b-58cc-4372-a567-0e02b2c3d479",
        1_834_569_023_625_863_663,
        1_990_529_263_305_506_094,
        H1,
    );
    check(
        "wf-instance-1",
        7_074_114_717_878_795_192,
        7_120_362_376_346_592_644,
        H1,
    );
    check("", 241_225_442_164_632_184, 346_669_562_463_125_968, H1);
    check(
        "Zürich",
        3_384_175_971_570_079_686,
        3_456_094_349_295_604_239,
        H1,
    );
    check(
        "with space",
        15_228_208_445_748_211_535,
        15_289_202_366_525_089_738,
        H3,
    );
    let long = format!("long-{}", "x".repeat(60));
    check(
        &long,
        2_449_210_257_437_026_060,
        2_473_412_320_833_207_255,
        H2,
    );
    check(
        "wrap-83",
        18_415_124_906_326_607_247,
        124_205_688_661_879_367,
        H3,
    );
}

#[test]
fn ten_thousand_ids_spread_as_elsewhere() {
    let ring = ring(&[H1, H2, H3], 100);
    let mut counts = [0; 3];
    for id in 0..10_000 {
        counts[ring.owner_index(&id.to_string()).expect("not empty")] += 1;
    }
    assert_eq!(counts, [3442, 3369, 3189]);
}

#[test]
fn without_a_host_only_its_ids_move() {
    let ring = ring(&[H1, H3], 100);
    let check = |id: &str, owner: &str| {
        assert_eq!(ring.owner(id).map(|host| &*host.name), Some(owner), "{id}");
    };
    for (id, owner) in [
        ("1", H3),
        ("2", H3),
        ("3", H3),
        ("a", H1),
        ("b", H1),
        ("actor-3", H3),
        ("actor-10", H1),
    ] {
        check(id, owner);
    }
    assert_eq!(node(&ring, "3"), 17_610_449_194_298_397_027);
    assert_eq!(node(&ring, "a"), 1_437_450_574_339_962_741);
    assert_eq!(node(&ring, "actor-3"), 16_693_205_665_276_030_934);
    assert_eq!(node(&ring, "actor-10"), 5_652_208_775_117_718_455);
}

#[test]
fn five_hosts_of_all_spellings() {
    let hosts = [
        "app-0.svc:3500",
        "[2001:db8::7]:50002",
        "host-b:1",
        "host-c:65535",
        "192.168.1.83:60992",
    ];
    let ring = ring(&hosts, 1000);
    let check = |id: &str, key: u64, chosen: u64, owner: &str| {
        assert_eq!(hash(id), key, "{id}");
        assert_eq!(node(&ring, id), chosen, "{id}");
        assert_eq!(ring.owner(id).map(|host| &*host.name), Some(owner), "{id}");
    };
    check(
        "k1",
        17_679_122_803_780_308_287,
        17_679_815_567_358_335_925,
        hosts[1],
    );
    check(
        "k2",
        16_411_452_167_037_330_029,
        16_413_325_113_559_972_275,
        hosts[2],
    );
    check(
        "k3",
        1_153_866_778_344_902_941,
        1_158_800_813_601_602_269,
        hosts[1],
    );
    check(
        "k4",
        8_441_178_409_421_662_967,
        8_441_888_202_428_591_625,
        hosts[2],
    );
    check(
        "k5",
        16_852_504_944_508_781_523,
        16_853_742_210_128_266_903,
        hosts[0],
    );
}

#[test]
fn one_node_and_none() {
    let ring = ring(&["127.0.0.1:50002"], 1);
    assert_eq!(*ring.points, [13_988_548_530_184_643_925]);
    assert!(ring.owner("anything").is_some());
    assert!(self::ring(&[], 100).owner("a").is_none());
    assert!(self::ring(&[H1], 0).owner("a").is_none());
}

proptest! {
    #[test]
    fn a_host_that_joins_or_leaves_moves_no_other(
        count in 1usize..8,
        one in any::<prop::sample::Index>(),
        seed in any::<prop::sample::Index>(),
        replication in 1u32..50,
        ids in prop::collection::vec("[a-z0-9]{0,8}", 1..50),
    ) {
        let names: Vec<_> = (0..=count).map(|i| format!("10.0.0.{i}:50002")).collect();
        let mut names: Vec<_> = names.iter().map(String::as_str).collect();
        let all = ring(&names, replication);
        let one = names.remove(one.index(names.len()));
        // The order in which they are told says nothing.
        let places = seed.index(names.len());
        names.rotate_left(places);
        names.reverse();
        let others = ring(&names, replication);
        names.push(one);
        names.rotate_left(places);
        let permuted = ring(&names, replication);
        for id in ids {
            let (with, without) = (all.owner(&id), others.owner(&id));
            prop_assert_eq!(with, permuted.owner(&id));
            // Whoever has joined takes ids, whoever has left gives them away, and nothing else moves.
            prop_assert!(with == without || with.is_some_and(|host| &*host.name == one));
            prop_assert!(without.is_some_and(|host| &*host.name != one));
        }
    }
}
